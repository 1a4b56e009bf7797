"""Sizes of a model among others: what it leaves for them, and when it would rather wait."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from gguf_worker.config import Gpu, Machine, Settings, load_settings
from gguf_worker.errors import EngineStartFailed
from gguf_worker.models.gguf import Header, read_header
from gguf_worker.models.gguf.architectures import Layer
from gguf_worker.models.memory import Fit, fit, fit_alone, fit_among, machine_beside
from tests.tiny_gguf import write_encoder, write_tiny

GIB = 1 << 30


@pytest.fixture(scope="module")
def eight(tiny_header: Header) -> Header:
    """A model of about eight billion parameters, 5 GiB of them."""
    blocks, weights = 32, 5 * GIB
    return dataclasses.replace(
        tiny_header,
        tensor_bytes=weights,
        embedding_bytes=weights // 16,
        block_bytes=(weights * 14 // 16 // blocks,) * blocks,
        block_count=blocks,
        layers=(Layer(1024, 1024, 0),) * blocks,
        head_count=(32,) * blocks,
        head_count_kv=(8,) * blocks,
        key_length=128,
        value_length=128,
        context_length=131_072,
        embedding_length=4096,
        feed_forward_length=14336,
        vocabulary=128_256,
    )


def gpus(free: float, count: int = 1, total: float = 24) -> Machine:
    each = tuple(Gpu(i, "GPU", int(total * GIB), int(free * GIB)) for i in range(count))
    return Machine(8, 64 * GIB, 64 * GIB, each)


def host(gib: float) -> Machine:
    return Machine(8, 64 * GIB, int(gib * GIB))


def among(header: Header, machine: Machine, *, alone: bool = False, **given: Any) -> Fit | None:
    settings = Settings(model="m.gguf", **given)
    return fit_among(settings, machine, header, gpu_offload=bool(machine.gpus), alone=alone)


def test_the_first_of_several_leaves_half_of_what_its_weights_do(eight: Header) -> None:
    found = among(eight, gpus(24), alone=True)
    everything = fit(Settings(model="m.gguf"), gpus(24), eight, gpu_offload=True)
    assert found is not None
    assert 12 * GIB < found.gpu_bytes < 15 * GIB < everything.gpu_bytes


def test_the_sizes_are_the_same_before_the_start(eight: Header, tmp_path: Path) -> None:
    file = tmp_path / "models.yaml"
    file.write_text("models: {a: {model: m.gguf}}")
    several = load_settings({"MODELS_FILE": str(file)})
    sole = load_settings({"MODEL": "m.gguf"})
    assert fit_alone(several, gpus(24), eight, gpu_offload=True) == among(
        eight, gpus(24), alone=True
    )
    assert fit_alone(sole, gpus(24), eight, gpu_offload=True) == fit(
        sole, gpus(24), eight, gpu_offload=True
    )


def test_a_second_model_finds_room_and_a_third_does_not(eight: Header) -> None:
    free = 24.0
    held = 0
    while (found := among(eight, gpus(free - held / GIB), alone=held == 0)) is not None:
        assert found.gpu_layers.value == -1
        assert found.context.value >= 4096
        held += found.gpu_bytes + (1 << 29)
    assert 19 * GIB < held < 24 * GIB


def test_where_half_is_too_little_to_be_of_use_all_is_taken(eight: Header) -> None:
    found = among(eight, gpus(7))
    assert found is not None
    assert found.context.value >= 4096
    assert found.gpu_bytes > (7 + 5) / 2 * 0.9 * GIB - (1 << 29)


def test_a_model_that_would_be_of_no_use_beside_others_waits_but_alone_takes_what_it_gets(
    eight: Header,
) -> None:
    for machine in (gpus(6), host(6.3)):
        assert among(eight, machine) is None
        found = among(eight, machine, alone=True)
        assert found is not None
        assert found.gpu_layers.value > 0 if machine.gpus else found.context.value < 4096


def test_a_model_that_does_not_fit_waits_for_others_and_alone_is_an_error(eight: Header) -> None:
    assert among(eight, host(4)) is None
    with pytest.raises(EngineStartFailed, match="does not fit"):
        among(eight, host(4), alone=True)


def test_what_was_set_has_to_fit_beside_others_and_is_taken_as_set_alone(eight: Header) -> None:
    given: dict[str, Any] = {"ctx_size": 32_768, "max_concurrency": 4, "kv_layout": "partitioned"}
    assert among(eight, gpus(16), **given) is None
    found = among(eight, gpus(16), alone=True, **given)
    assert found is not None
    assert (found.context.value, found.sequences.value, found.fits) == (32_768, 4, False)
    small = among(eight, gpus(16), ctx_size=512, max_concurrency=1)
    assert small is not None
    assert small.context.value == 512


def test_layers_that_were_set_may_stay_on_the_host(eight: Header) -> None:
    found = among(eight, gpus(4), gpu_layers=4)
    assert found is not None
    assert found.gpu_layers.value == 4


def test_several_gpus_share_the_weights_and_leave_half_of_the_rest_each(eight: Header) -> None:
    found = among(eight, gpus(12, count=2, total=12), alone=True)
    assert found is not None
    assert found.gpu_bytes < 15 * GIB


def test_a_short_context_is_all_that_some_models_have(tmp_path: Path) -> None:
    encoder = read_header(write_encoder(tmp_path / "e.gguf"))
    found = among(encoder, host(8))
    assert found is not None
    assert found.context.value == encoder.context_length
    tiny = read_header(write_tiny(tmp_path / "t.gguf", context_length=512))
    assert among(tiny, host(8), kv_size=256) is not None


def test_files_that_others_have_mapped_are_not_free_for_one_more() -> None:
    a, b, own = Path("a"), Path("b"), Path("own")
    assert machine_beside(host(8), own, [(a, GIB), (b, 2 * GIB)]).memory_available == 5 * GIB
    assert machine_beside(host(1), own, [(a, 2 * GIB)]).memory_available == 0


def test_a_file_that_several_models_have_is_in_memory_once() -> None:
    a, own = Path("a"), Path("own")
    assert machine_beside(host(8), own, [(a, GIB), (a, 2 * GIB)]).memory_available == 6 * GIB
    assert machine_beside(host(8), own, [(own, 2 * GIB)]).memory_available == 8 * GIB
