"""Memory that the worker's processes and the GPUs hold right now.

It is read on demand, never in the background. A GPU or process that cannot be read is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

ENGINE_MODULE = "gguf_worker.engine"
"""The argument by which an engine's process is told from others."""


@dataclass(frozen=True, slots=True)
class GpuMemory:
    """Bytes of one GPU: those used by any process, and all."""

    index: int
    used_bytes: int
    total_bytes: int


def resident_bytes() -> dict[str, int]:
    """Return the resident bytes of this process (`worker`) and of its engines together (`engine`).

    Other children, such as the SDK's, are left out. The pages of a mapped model file count where
    they are resident, and once for each process.
    """
    import psutil

    worker = psutil.Process()
    engine = 0
    for child in worker.children():
        try:
            if ENGINE_MODULE in child.cmdline():
                engine += child.memory_info().rss
        except psutil.Error:
            continue  # it ended after it was listed
    return {"worker": worker.memory_info().rss, "engine": engine}


class GpuReader:
    """A connection to the NVIDIA driver, opened at the first read."""

    def __init__(self) -> None:
        self._nvml: Any = None
        self._absent = False

    def read(self) -> tuple[GpuMemory, ...]:
        """Read every GPU that this container has; none without a driver."""
        if self._nvml is None and not self._absent:
            self._nvml = _open()
            self._absent = self._nvml is None
        return () if self._nvml is None else tuple(_readings(self._nvml))

    def close(self) -> None:
        if self._nvml is not None:
            self._nvml.nvmlShutdown()
            self._nvml = None


def _open() -> Any:
    try:
        import pynvml

        pynvml.nvmlInit()
    except ImportError:
        return None
    except pynvml.NVMLError:
        return None
    return pynvml


def _readings(nvml: Any) -> Iterator[GpuMemory]:
    try:
        count = nvml.nvmlDeviceGetCount()
    except nvml.NVMLError:
        return
    for index in range(count):
        try:
            memory = nvml.nvmlDeviceGetMemoryInfo(nvml.nvmlDeviceGetHandleByIndex(index))
        except nvml.NVMLError:
            continue
        yield GpuMemory(index, int(memory.used), int(memory.total))
