"""A worker on a GPU: `make gpu`. The models are tiny and random, so nothing has to be fetched."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from gguf_worker.config.machine import nvidia_gpus
from tests.http_worker import KEY, Served, http_worker
from tests.tiny_gguf import ARCHITECTURES, write_tiny

pytestmark = [pytest.mark.e2e, pytest.mark.gpu]

TEXT = "The sea is wide and the ships are small, and nobody knows who counts them. " * 8
LEAST = 64 << 20
"""Bytes that a process with a CUDA context takes at least, with a model of a few hundred kB."""


@pytest.fixture(params=ARCHITECTURES)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "tiny.gguf", request.param)


@pytest.fixture
def on_gpu(model: Path, tmp_path: Path) -> Iterator[Served]:
    with http_worker(model, tmp_path / "gpu.log", GPU_LAYERS="all") as served:
        yield served


@pytest.fixture
def on_cpu(model: Path, tmp_path: Path) -> Iterator[Served]:
    with http_worker(model, tmp_path / "cpu.log", GPU_LAYERS="0") as served:
        yield served


def free() -> int:
    """Return the free bytes of all GPUs."""
    gpus = nvidia_gpus(os.environ)
    assert gpus, "there is no GPU here, or no driver"
    return sum(gpu.free_bytes for gpu in gpus)


def likelihoods(served: Served) -> list[float]:
    """Return how likely the worker finds its likeliest next tokens, for prompts of many lengths."""
    prompts = [TEXT[:length] for length in range(10, len(TEXT), 40)]
    body = {"prompt": prompts, "max_tokens": 1, "temperature": 0, "logprobs": 1}
    headers = {"Authorization": f"Bearer {KEY}"}
    answer = httpx.post(f"{served.base}/v1/completions", json=body, headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text
    choices = sorted(answer.json()["choices"], key=lambda choice: choice["index"])
    return [choice["logprobs"]["token_logprobs"][0] for choice in choices]


def test_a_model_is_put_on_the_gpu_as_a_whole_and_answers(model: Path, tmp_path: Path) -> None:
    before = free()
    with http_worker(model, tmp_path / "log", GPU_LAYERS="all") as served:
        assert before - free() >= LEAST
        assert likelihoods(served)
    log = (tmp_path / "log").read_text()
    assert "all layers on the GPU" in log
    assert "built without CUDA" not in log


def test_the_gpu_computes_what_the_cpu_computes(on_gpu: Served, on_cpu: Served) -> None:
    assert likelihoods(on_gpu) == pytest.approx(likelihoods(on_cpu), abs=0.05)
