"""Headers of models of real sizes, and machines to fit them to."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from gguf_worker.config import Gpu, Machine, Settings
from gguf_worker.models.gguf import Header, read_header
from gguf_worker.models.gguf.architectures import Layer
from gguf_worker.models.memory import Fit, fit
from tests.tiny_gguf import write_encoder

GIB = 1 << 30
MIB = 1 << 20


def sized(
    header: Header,
    *,
    blocks: int = 32,
    weights: int = 4 * GIB,
    layer: Layer = Layer(1024, 1024, 0),  # noqa: B008 - frozen
    **changes: Any,
) -> Header:
    """A model of about eight billion parameters, unless said otherwise."""
    facts: dict[str, Any] = {
        "tensor_bytes": weights,
        "embedding_bytes": weights // 16,
        "block_bytes": (weights * 14 // 16 // blocks,) * blocks,
        "block_count": blocks,
        "layers": (layer,) * blocks,
        "head_count": (32,) * blocks,
        "head_count_kv": (8,) * blocks,
        "key_length": 128,
        "value_length": 128,
        "context_length": 131_072,
        "embedding_length": 4096,
        "feed_forward_length": 14336,
        "vocabulary": 128_256,
    }
    return dataclasses.replace(header, **(facts | changes))


@pytest.fixture
def smollm(tiny_header: Header) -> Header:
    return sized(
        tiny_header,
        blocks=30,
        weights=92 * MIB,
        layer=Layer(192, 192, 0),
        head_count=(9,) * 30,
        context_length=8192,
        embedding_length=576,
        feed_forward_length=1536,
        vocabulary=49_152,
        key_length=64,
        value_length=64,
    )


def host(gib: float = 64, cores: int = 8) -> Machine:
    """Return a machine without a GPU, of so much memory."""
    return Machine(cores, int(gib * GIB), int(gib * GIB))


def with_gpu(gib: float, *, host_gib: float = 64, count: int = 1) -> Machine:
    """Return a machine with GPUs of so much memory each."""
    gpus = tuple(Gpu(index, "GPU", int(gib * GIB), int(gib * GIB)) for index in range(count))
    return dataclasses.replace(host(host_gib), gpus=gpus)


def fit_of(header: Header, machine: Machine, **settings: Any) -> Fit:
    """Return the sizes for a model, with a llama.cpp that was built for the machine."""
    chosen = Settings(model="/m.gguf", **settings)
    return fit(chosen, machine, header, gpu_offload=bool(machine.gpus))


@pytest.fixture
def encoder(tmp_path: Path) -> Header:
    """One of the size of bge-m3."""
    header = read_header(write_encoder(tmp_path / "e.gguf"))
    return sized(
        header,
        blocks=24,
        weights=1100 * MIB,
        layer=Layer(0, 0, 0),
        context_length=8192,
        embedding_length=1024,
        feed_forward_length=4096,
        head_count=(16,) * 24,
        vocabulary=250_002,
    )
