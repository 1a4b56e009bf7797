"""Faults of GPUs: which of them end a start, and for whom another host may do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gguf_worker.config import Gpu, Machine, Settings
from gguf_worker.errors import ConfigError, EngineStartFailed
from gguf_worker.models.gguf import Header
from gguf_worker.models.memory import Fit, fit
from gguf_worker.serving.gpu_faults import check_readable, on_queue, sizes_where_free
from tests.models.memory.conftest import sized

GIB = 1 << 30
PLAIN = Machine(8, 64 * GIB, 64 * GIB)
GOOD = replace(PLAIN, gpus=(Gpu(0, "NVIDIA L4", 24 * GIB, 24 * GIB),))
LOST = replace(PLAIN, unreadable=("GPU 0 NVIDIA L4 (GPU is lost)",))


def with_layers(layers: int | None) -> Settings:
    return Settings(model="m.gguf", gpu_layers=layers)


@pytest.mark.parametrize("queue", [True, False])
@pytest.mark.parametrize("layers", [-1, 20])
def test_layers_that_are_set_never_go_to_the_cpu_because_a_gpu_cannot_be_read(
    queue: bool, layers: int
) -> None:
    with pytest.raises(EngineStartFailed, match=r"GPU 0 NVIDIA L4 \(GPU is lost\)") as failed:
        check_readable(with_layers(layers), LOST, queue=queue)
    assert not failed.value.permanent
    assert failed.value.lacking
    assert "GPU_LAYERS=0" in failed.value.message


@pytest.mark.parametrize(("layers", "shown"), [(-1, "all"), (20, "20")])
def test_layers_for_a_gpu_on_a_machine_without_one_are_a_wrong_setting(
    layers: int, shown: str
) -> None:
    with pytest.raises(ConfigError, match=f"GPU_LAYERS={shown}, and this") as wrong:
        check_readable(with_layers(layers), PLAIN, queue=True)
    assert wrong.value.permanent


def test_with_auto_the_queue_tries_another_host_and_others_run_on_the_cpu() -> None:
    with pytest.raises(EngineStartFailed):
        check_readable(with_layers(None), LOST, queue=True)
    check_readable(with_layers(None), LOST, queue=False)
    check_readable(with_layers(None), PLAIN, queue=True)


@pytest.mark.parametrize("machine", [GOOD, replace(GOOD, unreadable=LOST.unreadable), LOST, PLAIN])
def test_no_layers_are_wanted_or_a_gpu_is_left(machine: Machine) -> None:
    check_readable(with_layers(0), machine, queue=True)
    if machine.gpus:
        check_readable(with_layers(-1), machine, queue=True)


def test_the_queue_is_where_jobs_are_taken_and_not_over_http() -> None:
    taking = {"RUNPOD_WEBHOOK_GET_JOB": "http://127.0.0.1/"}
    assert on_queue(Settings(model="m"), taking)
    assert not on_queue(Settings(model="m"), {})
    assert not on_queue(Settings(model="m", worker_mode="http"), taking)


# GPUs that others use.


def with_free(*gib: float) -> Machine:
    """Return a machine with GPUs of 24 GiB, of which so much is free."""
    gpus = [Gpu(index, "NVIDIA L4", 24 * GIB, int(free * GIB)) for index, free in enumerate(gib)]
    return replace(PLAIN, gpus=tuple(gpus))


def sizes_for(
    header: Header, machine: Machine, layers: int | None = None, *, queue: bool
) -> Fit | None:
    def sizes(machine: Machine) -> Fit:
        return fit(with_layers(layers), machine, header, gpu_offload=True)

    return sizes_where_free(sizes, machine, queue=queue)


SAID = "GPU 0 NVIDIA L4 has 0.6 of 24.0 GiB free, and other processes hold the rest."


@pytest.mark.parametrize("layers", [None, -1, 99])
def test_on_the_queue_a_gpu_that_others_hold_sends_the_model_to_another_host(
    tiny_header: Header, layers: int | None
) -> None:
    with pytest.raises(EngineStartFailed, match=SAID) as failed:
        sizes_for(sized(tiny_header), with_free(0.6), layers, queue=True)
    assert not failed.value.permanent
    assert failed.value.lacking


def test_elsewhere_it_is_said_and_the_layers_that_fit_are_taken(
    tiny_header: Header, caplog: pytest.LogCaptureFixture
) -> None:
    found = sizes_for(sized(tiny_header), with_free(0.6), queue=False)
    assert found is not None
    assert found.gpu_layers.value == 0
    assert SAID in caplog.text


@pytest.mark.parametrize("queue", [True, False])
def test_a_model_that_fits_beside_the_others_is_served(
    tiny_header: Header, queue: bool, caplog: pytest.LogCaptureFixture
) -> None:
    found = sizes_for(sized(tiny_header), with_free(12), queue=queue)
    assert found is not None
    assert found.gpu_layers.value == -1
    assert "has 12.0 of 24.0 GiB free" in caplog.text


@pytest.mark.parametrize("free", [0.6, 24])
def test_a_model_that_fits_on_no_such_gpu_may_fit_on_another_hosts(
    tiny_header: Header, free: float
) -> None:
    """An endpoint may have GPUs of several sizes."""
    with pytest.raises(EngineStartFailed, match=r"needs 37\.\d+ GiB of GPU memory") as refused:
        sizes_for(sized(tiny_header, weights=40 * GIB), with_free(free), -1, queue=True)
    assert not refused.value.permanent
    assert refused.value.lacking


def test_a_model_with_layers_on_the_host_is_served_where_an_empty_gpu_holds_no_more(
    tiny_header: Header, caplog: pytest.LogCaptureFixture
) -> None:
    found = sizes_for(sized(tiny_header, weights=40 * GIB), with_free(23.5), queue=True)
    assert found is not None
    assert 0 < found.gpu_layers.value < 33
    assert caplog.text == ""


def test_one_gpu_of_two_that_others_hold_counts_if_the_other_is_not_enough(
    tiny_header: Header, caplog: pytest.LogCaptureFixture
) -> None:
    assert sizes_for(sized(tiny_header), with_free(23.5, 0.6), queue=True) is not None
    assert "GPU 1 NVIDIA L4 has 0.6" in caplog.text
    with pytest.raises(EngineStartFailed, match=r"GPU 1 NVIDIA L4 has 0\.6"):
        sizes_for(sized(tiny_header, weights=30 * GIB), with_free(23.5, 0.6), queue=True)
