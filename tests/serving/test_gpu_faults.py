"""Faults of GPUs: which of them end a start, and for whom another host may do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import pytest

from gguf_worker.config import Gpu, Machine, Settings
from gguf_worker.engine import GpuSupport
from gguf_worker.errors import ConfigError, EngineStartFailed, StartError
from gguf_worker.models.gguf import Header
from gguf_worker.models.memory import Fit, fit
from gguf_worker.serving import gpu_faults
from gguf_worker.serving.gpu_faults import (
    machine_without,
    on_queue,
    sizes_where_free,
    usable_machine,
    visible_devices,
)
from tests.models.memory.conftest import sized
from tests.paths import ROOT

GIB = 1 << 30
PLAIN = Machine(8, 64 * GIB, 64 * GIB)
GOOD = replace(PLAIN, gpus=(Gpu(0, "NVIDIA L4", 24 * GIB, 24 * GIB),))
LOST = replace(PLAIN, unreadable=("GPU 0 NVIDIA L4 (GPU is lost)",))


def with_layers(layers: int | None) -> Settings:
    return Settings(model="m.gguf", gpu_layers=layers)


QUEUE = {"RUNPOD_WEBHOOK_GET_JOB": "http://127.0.0.1/"}
ELSEWHERE: dict[str, str] = {}
LAYERS = {"auto": None, "0": 0, "all": -1, "20": 20}

READY = GpuSupport("ready")
NO_DEVICE = GpuSupport("no_device", "the NVIDIA driver finds no GPU")
NOT_LOADED = GpuSupport("not_loaded", "libcuda.so.1 is missing on this machine")
NOT_BUILT = GpuSupport("not_built")

SEEN = {"shown": GOOD, "unreadable": LOST, "none": PLAIN}
CUDA: dict[str, GpuSupport] = {
    each.state: each for each in (READY, NO_DEVICE, NOT_LOADED, NOT_BUILT)
}

TABLE = """
| NVML       | CUDA       | auto, queue  | auto, elsewhere | demanded     |
| ---------- | ---------- | ------------ | --------------- | ------------ |
| shown      | ready      | GPU          | GPU             | GPU          |
| shown      | no_device  | another host | CPU, warned     | another host |
| shown      | not_loaded | another host | CPU, warned     | another host |
| shown      | not_built  | CPU, warned  | CPU, warned     | never        |
| unreadable | ready      | another host | CPU             | another host |
| unreadable | no_device  | another host | CPU             | another host |
| unreadable | not_loaded | another host | CPU             | another host |
| unreadable | not_built  | CPU          | CPU             | never        |
| none       | ready      | another host | CPU, warned     | another host |
| none       | no_device  | another host | CPU, warned     | another host |
| none       | not_loaded | CPU, warned  | CPU, warned     | never        |
| none       | not_built  | CPU          | CPU             | never        |
"""
"""What becomes of a start, as docs/decisions/041 has it.

"demanded": GPU_LAYERS is more than 0; "warned": one line of the log says what is missing. The
warning for a GPU that cannot be read is another's. "another host": the start fails, and may
succeed elsewhere; "never": the setting is wrong on every host. With GPU_LAYERS=0 it is always the
CPU.
"""


def rows() -> Iterator[tuple[str, str, str, Mapping[str, str], str]]:
    """Yield every combination with its outcome."""
    for line in TABLE.strip().splitlines()[2:]:
        nvml, cuda, queue, elsewhere, demanded = (cell.strip() for cell in line.split("|")[1:-1])
        yield nvml, cuda, "auto", QUEUE, queue
        yield nvml, cuda, "auto", ELSEWHERE, elsewhere
        for environ in (QUEUE, ELSEWHERE):
            yield nvml, cuda, "0", environ, "CPU"
            for layers in ("all", "20"):
                yield nvml, cuda, layers, environ, demanded


def outcome(
    settings: Settings, machine: Machine, environ: Mapping[str, str], support: GpuSupport
) -> str:
    """Do what a start does, with the engine's own verdict on CUDA behind it."""
    try:
        found = usable_machine(settings, machine, environ)
        if found.gpus and settings.gpu_layers != 0 and support.faulty:
            found = machine_without(settings, found, environ, support)
    except StartError as error:
        if error.permanent:
            return "never" if isinstance(error, ConfigError) else "unknown"
        told = isinstance(error, EngineStartFailed) and error.lacking
        return "another host" if told and "GPU_LAYERS=0" in error.message else "unknown"
    return "GPU" if found.gpus and settings.gpu_layers != 0 else "CPU"


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Callable[[GpuSupport], None]:
    """Have llama.cpp's CUDA back end be in a state."""

    def be(support: GpuSupport) -> None:
        monkeypatch.setattr(gpu_faults, "ask_for_gpus", lambda: support)
        monkeypatch.setattr(gpu_faults, "built_for_gpus", lambda: support.state != "not_built")

    return be


@pytest.mark.parametrize(("nvml", "state", "layers", "environ", "expected"), tuple(rows()))
def test_a_model_is_on_the_cpu_only_where_nobody_asked_for_more_and_never_silently(
    nvml: str,
    state: str,
    layers: str,
    environ: Mapping[str, str],
    expected: str,
    cuda: Callable[[GpuSupport], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    support = CUDA[state]
    cuda(support)
    found = outcome(with_layers(LAYERS[layers]), SEEN[nvml], environ, support)
    warned = ", warned" if caplog.messages else ""
    assert found + warned == expected
    assert len(caplog.messages) == bool(warned)


def test_the_decision_has_the_same_table() -> None:
    decision = "041-a-gpu-that-fails-is-not-replaced-by-the-cpu.md"
    assert TABLE in (ROOT / "docs" / "decisions" / decision).read_text(encoding="utf-8")


def test_one_line_says_what_is_missing_and_what_to_do(
    cuda: Callable[[GpuSupport], None], caplog: pytest.LogCaptureFixture
) -> None:
    cuda(NOT_LOADED)
    usable_machine(with_layers(None), PLAIN, QUEUE)
    assert caplog.messages == [
        "the model runs on the CPU: llama.cpp can use no GPU: libcuda.so.1 is missing on this "
        "machine. Give the endpoint a GPU, allow only CUDA versions that the image can use, or "
        "take the image for CPUs."
    ]


def test_a_demand_that_no_host_can_meet_is_refused_with_the_reason(
    cuda: Callable[[GpuSupport], None],
) -> None:
    cuda(NOT_LOADED)
    for layers, shown in ((-1, "all"), (20, "20")):
        with pytest.raises(ConfigError, match=rf"GPU_LAYERS={shown}, and .* no GPU \(libcuda\.so"):
            usable_machine(with_layers(layers), PLAIN, ELSEWHERE)
    cuda(NOT_BUILT)
    with pytest.raises(ConfigError, match="built without CUDA"):
        usable_machine(with_layers(-1), GOOD, ELSEWHERE)


@pytest.mark.parametrize("chosen", ["", "-1", "NoDevFiles", " "])
def test_who_hides_every_gpu_from_cuda_wants_the_cpu(
    chosen: str, cuda: Callable[[GpuSupport], None], caplog: pytest.LogCaptureFixture
) -> None:
    cuda(NO_DEVICE)
    environ = {**QUEUE, "CUDA_VISIBLE_DEVICES": chosen}
    assert usable_machine(with_layers(None), PLAIN, environ) == PLAIN
    assert caplog.messages == []
    with pytest.raises(ConfigError):
        usable_machine(with_layers(-1), PLAIN, environ)


@pytest.mark.parametrize("chosen", ["0", "1,0", "GPU-aa", "MIG-x"])
def test_who_chooses_gpus_that_are_not_there_is_told(
    chosen: str, cuda: Callable[[GpuSupport], None]
) -> None:
    cuda(NO_DEVICE)
    with pytest.raises(EngineStartFailed, match="finds no GPU"):
        usable_machine(with_layers(None), PLAIN, {**QUEUE, "CUDA_VISIBLE_DEVICES": chosen})


# The GPUs that CUDA is to show.


def ids(*names: str | None, unreadable: bool = False) -> Machine:
    gpus = (Gpu(index, "G", GIB, GIB, uuid=uuid) for index, uuid in enumerate(names))
    return replace(PLAIN, gpus=tuple(gpus), unreadable=LOST.unreadable if unreadable else ())


@pytest.mark.parametrize(
    ("machine", "shown"),
    [
        (ids("GPU-bb", "GPU-aa"), None),
        (ids("GPU-bb", "GPU-aa", unreadable=True), "GPU-bb,GPU-aa"),
        (ids("GPU-bb", None, unreadable=True), None),
        (ids(unreadable=True), None),
        (ids("MIG-x"), "MIG-x"),
        (PLAIN, None),
    ],
)
def test_cuda_is_told_the_gpus_in_their_order_only_where_it_would_show_others(
    machine: Machine, shown: str | None
) -> None:
    assert visible_devices(machine).get("CUDA_VISIBLE_DEVICES") == shown


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
