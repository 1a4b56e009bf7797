"""Faults of GPUs: which of them end a start, and for whom another host may do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gguf_worker.config import Gpu, Machine, Settings
from gguf_worker.errors import ConfigError, EngineStartFailed
from gguf_worker.serving.gpu_faults import check_readable, on_queue

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
