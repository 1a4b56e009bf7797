"""What the worker runs on: the cores, memory and GPUs that this container may use.

A container on a large host sees all of the host's cores and memory; what it may use stands in its
control groups (version 1 or 2). Nothing here decides anything: `models` does, from these numbers.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from gguf_worker import STARTED

# Version 1 writes "no limit" as the largest number of pages, so anything in the exabytes is none.
_NO_LIMIT = 1 << 60


@dataclass(frozen=True, slots=True)
class Gpu:
    """One NVIDIA GPU; `compute_capability` such as "9.0", None where the driver does not say."""

    index: int
    name: str
    total_bytes: int
    free_bytes: int
    compute_capability: str | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """Usable cores, memory in bytes (all of it, and what is free now), and visible GPUs."""

    cores: int
    memory_bytes: int
    memory_available: int
    gpus: tuple[Gpu, ...] = ()

    def explain(self) -> str:
        """One line for people."""
        gpus = ", ".join(
            f"GPU {gpu.index} {gpu.name} ({_gib(gpu.free_bytes)} of {_gib(gpu.total_bytes)} free)"
            for gpu in self.gpus
        )
        cores = "1 core" if self.cores == 1 else f"{self.cores} cores"
        memory = f"{_gib(self.memory_available)} of {_gib(self.memory_bytes)} memory free"
        return f"{cores}, {memory}, {gpus or 'no GPU'}"


def process_seconds() -> float:
    """Seconds since this process began, to a hundredth; 0 where the system does not say.

    From the kernel's own clock: the time of day may be set while a container starts, and the moment of
    the boot, which other ways go by, is known to the second only.
    """
    try:
        stat = Path("/proc/self/stat").read_text(encoding="ascii", errors="replace")
        ticks = int(stat.rpartition(")")[2].split()[19])
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, AttributeError):
        return 0.0


def interpreter_seconds() -> float:
    """How long this process had run when the first of our modules was imported, likewise."""
    return max(0.0, process_seconds() - (time.monotonic() - STARTED))


def probe(
    environ: Mapping[str, str],
    *,
    cgroups: Path = Path("/sys/fs/cgroup"),
    membership: Path = Path("/proc/self/cgroup"),
    host_cores: Callable[[], int] | None = None,
    host_memory: Callable[[], tuple[int, int]] | None = None,
    gpus: Callable[[Mapping[str, str]], tuple[Gpu, ...]] | None = None,
) -> Machine:
    """The machine as this process may use it; some milliseconds, more where there are GPUs."""
    groups = tuple(_groups(cgroups, membership))
    total, available = _memory(groups, (host_memory or _host_memory)())
    return Machine(
        cores=_cores(groups, (host_cores or _schedulable)()),
        memory_bytes=total,
        memory_available=available,
        gpus=(gpus or nvidia_gpus)(environ),
    )


def nvidia_gpus(environ: Mapping[str, str]) -> tuple[Gpu, ...]:
    """The GPUs that CUDA would show here, in its order; none where there is no working driver."""
    try:
        import pynvml
    except ImportError:
        return ()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        return tuple(_visible(pynvml, environ.get("CUDA_VISIBLE_DEVICES")))
    except pynvml.NVMLError:
        return ()
    finally:
        pynvml.nvmlShutdown()


def _visible(nvml: Any, chosen: str | None) -> Iterator[Gpu]:
    if chosen is None:
        handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
    else:
        handles = list(_chosen(nvml, chosen))
    for index, handle in enumerate(handles):
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        yield Gpu(
            index=index,
            name=str(nvml.nvmlDeviceGetName(handle)),
            total_bytes=int(memory.total),
            free_bytes=int(memory.free),
            compute_capability=_capability(nvml, handle),
        )


def _chosen(nvml: Any, chosen: str) -> Iterator[Any]:
    """Handles by number or unique id; like CUDA, what comes after a wrong entry does not count."""
    for entry in chosen.split(","):
        try:
            if entry.strip().isdecimal():
                yield nvml.nvmlDeviceGetHandleByIndex(int(entry))
            else:
                yield nvml.nvmlDeviceGetHandleByUUID(entry.strip())
        except nvml.NVMLError:
            return


def _capability(nvml: Any, handle: Any) -> str | None:
    try:
        major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    except nvml.NVMLError:
        return None
    return f"{major}.{minor}"


@dataclass(frozen=True, slots=True)
class _Group:
    """One control group directory of a controller; None where it sets no limit."""

    cpus: float | None = None
    memory_limit: int | None = None
    memory_used: int = 0


def _groups(root: Path, membership: Path) -> Iterator[_Group]:
    """Every control group that binds this process, from its own up to the root of the mount.

    The path in /proc/self/cgroup may be the host's, which is not there inside the container; the
    container's own limits then stand at the root of the mount.
    """
    for line in _read(membership).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            # Where both versions are mounted, the second one is below `unified`.
            yield from map(_version_2, _upwards(root, path))
            yield from map(_version_2, _upwards(root / "unified", path))
        if "cpu" in controllers.split(","):
            for mount in {root / controllers, root / "cpu"}:
                yield from map(_version_1_cpu, _upwards(mount, path))
        if "memory" in controllers.split(","):
            yield from map(_version_1_memory, _upwards(root / "memory", path))


def _upwards(mount: Path, path: str) -> Iterator[Path]:
    inside = PurePosixPath(path.lstrip("/"))
    if ".." in inside.parts:
        inside = PurePosixPath()
    for step in (inside, *inside.parents):
        yield mount / step


def _version_2(group: Path) -> _Group:
    quota, _, period = _read(group / "cpu.max").strip().partition(" ")
    return _Group(
        cpus=int(quota) / int(period) if quota.isdecimal() and period.isdecimal() else None,
        memory_limit=_number(group / "memory.max"),
        memory_used=_used(group, "memory.current", ("inactive_file", "active_file")),
    )


def _version_1_cpu(group: Path) -> _Group:
    quota = _number(group / "cpu.cfs_quota_us")
    period = _number(group / "cpu.cfs_period_us")
    return _Group(cpus=quota / period if quota and period else None)


def _version_1_memory(group: Path) -> _Group:
    return _Group(
        memory_limit=_number(group / "memory.limit_in_bytes"),
        memory_used=_used(
            group, "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")
        ),
    )


def _used(group: Path, usage: str, caches: tuple[str, str]) -> int:
    """Bytes that cannot be reclaimed: a cached file, such as a model once read, can be dropped."""
    statistics = _table(_read(group / "memory.stat"))
    cached = sum(statistics.get(name, 0) for name in caches)
    return max((_number(group / usage) or 0) - cached, 0)


def _cores(groups: tuple[_Group, ...], schedulable: int) -> int:
    quotas = [math.ceil(group.cpus) for group in groups if group.cpus is not None]
    return max(min([schedulable, *quotas]), 1)


def _schedulable() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory(groups: tuple[_Group, ...], host: tuple[int, int]) -> tuple[int, int]:
    """Bytes in all and bytes free: the host's, or the tightest group's where that is less."""
    total, available = host
    for group in groups:
        if group.memory_limit is not None:
            total = min(total, group.memory_limit)
            available = min(available, max(group.memory_limit - group.memory_used, 0))
    return total, available


def _host_memory() -> tuple[int, int]:
    import psutil

    memory = psutil.virtual_memory()
    return int(memory.total), int(memory.available)


def _table(text: str) -> dict[str, int]:
    rows = (line.split() for line in text.splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdecimal()}


def _number(path: Path) -> int | None:
    """The number in a control file; None where there is none, or it means no limit."""
    text = _read(path).strip()
    return int(text) if text.isdecimal() and int(text) < _NO_LIMIT else None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
