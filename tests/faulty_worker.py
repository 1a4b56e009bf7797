"""`python faulty_worker.py FAULT ARGUMENTS` is `python handler.py ARGUMENTS` on a machine with a
fault.

Everything is the worker's own but for the one thing that fails, which cannot be had for real
without another kernel, driver or machine.
"""

from __future__ import annotations

import errno
import io
import os
import runpy
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import psutil

ROOT = Path(__file__).resolve().parents[1]
GIB = 1 << 30


def stale_file() -> None:
    """A network volume that has lost its handle of the model's file."""
    whole = io.open

    def opened(file: Any, *given: Any, **more: Any) -> Any:
        if str(file).endswith(".gguf"):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(file))
        return whole(file, *given, **more)

    io.open = opened


def little_memory() -> None:
    """Other processes have all but 64 MiB of the machine's memory."""
    whole = psutil.virtual_memory
    psutil.virtual_memory = lambda: whole()._replace(available=64 << 20)


def file_that_vanishes() -> None:
    """The model's file is there when its header is read, and gone when llama.cpp opens it."""
    from gguf_worker.serving import loaded_model

    whole = loaded_model.engine_spec

    def spec(*given: Any, **more: Any) -> Any:
        made = whole(*given, **more)
        return msgspec.structs.replace(made, path=made.path + ".gone")

    loaded_model.engine_spec = spec


class _Refusal(Exception):
    """The driver's error."""


class _Driver(SimpleNamespace):
    """pynvml with one GPU of 24 GiB, of which `free` bytes are free; None: it cannot be read."""

    NVMLError = _Refusal
    NVMLError_LibraryNotFound = NVMLError_DriverNotLoaded = type("Absent", (_Refusal,), {})
    NVMLError_InvalidArgument = NVMLError_NotFound = type("Wrong", (_Refusal,), {})

    def __init__(self, free: int | None) -> None:
        super().__init__(
            nvmlInit=lambda: None,
            nvmlShutdown=lambda: None,
            nvmlDeviceGetCount=lambda: 1,
            nvmlDeviceGetHandleByIndex=lambda index: index,
            nvmlDeviceGetName=lambda gpu: "NVIDIA L4",
            nvmlDeviceGetMemoryInfo=lambda gpu: self._memory(free),
            nvmlDeviceGetCudaComputeCapability=lambda gpu: (8, 9),
            nvmlDeviceGetMigMode=lambda gpu: (0, 0),
            NVML_DEVICE_MIG_ENABLE=1,
            nvmlDeviceGetUUID=lambda gpu: "GPU-aa",
        )

    def _memory(self, free: int | None) -> SimpleNamespace:
        if free is None:
            raise _Refusal("GPU is lost")
        return SimpleNamespace(total=24 * GIB, free=free)


def lost_gpu() -> None:
    """The driver has a GPU that it cannot read."""
    sys.modules["pynvml"] = _Driver(None)  # type: ignore[assignment]
    _build_for_gpus()


def held_gpu() -> None:
    """Other processes hold the memory of the GPU."""
    sys.modules["pynvml"] = _Driver(GIB // 10)  # type: ignore[assignment]
    _build_for_gpus()


def old_driver() -> None:
    """The driver has a GPU, and is older than llama.cpp's CUDA needs."""
    from gguf_worker.engine import EngineClient, GpuSupport
    from gguf_worker.errors import EngineStartFailed

    sys.modules["pynvml"] = _Driver(23 * GIB)  # type: ignore[assignment]
    _build_for_gpus()
    start = EngineClient.start

    def refusing(engine: Any) -> Any:
        if engine._spec.gpu_layers == 0:
            return start(engine)
        engine._gpu_fault = GpuSupport("no_device", "this machine's NVIDIA driver is older")
        raise EngineStartFailed(engine._gpu_fault.reason, lacking=True)

    EngineClient.start = refusing  # type: ignore[assignment, method-assign]


def no_driver() -> None:
    """llama.cpp has a CUDA back end, and the machine no driver."""
    from gguf_worker.engine import GpuSupport
    from gguf_worker.serving import gpu_faults

    def ask() -> GpuSupport:
        return GpuSupport("not_loaded", "libcuda.so.1 is missing on this machine")

    vars(gpu_faults)["ask_for_gpus"] = ask


def _build_for_gpus() -> None:
    from gguf_worker.serving import gpu_faults

    vars(gpu_faults)["built_for_gpus"] = lambda: True


def engine_killed_once() -> None:
    """The kernel ends the engine as soon as it is ready."""
    _after_the_start(lambda app: _kill_engines())


def engine_killed_for_good() -> None:
    """The kernel ends each engine, before the first job is taken."""

    def end(app: Any) -> None:
        while not app.dead:
            _kill_engines()
            time.sleep(0.005)  # in less time than an engine needs for an answer

    _after_the_start(end)


def _after_the_start(act: Callable[[Any], None]) -> None:
    from gguf_worker.app import App

    whole = App.start

    def start(app: App) -> None:
        whole(app)
        act(app)

    App.start = start  # type: ignore[assignment, method-assign]


def _kill_engines() -> None:
    for child in psutil.Process().children():
        with suppress(psutil.Error):  # one that has just ended has no command line
            if "gguf_worker.engine" in child.cmdline():
                child.kill()


FAULTS: dict[str, Callable[[], None]] = {
    each.__name__: each
    for each in (
        stale_file,
        little_memory,
        file_that_vanishes,
        lost_gpu,
        held_gpu,
        old_driver,
        no_driver,
        engine_killed_once,
        engine_killed_for_good,
    )
}

if __name__ == "__main__":
    _, fault, *rest = sys.argv
    FAULTS[fault]()
    sys.argv = ["handler.py", *rest]
    sys.path.insert(0, str(ROOT))
    runpy.run_path(str(ROOT / "handler.py"), run_name="__main__")
