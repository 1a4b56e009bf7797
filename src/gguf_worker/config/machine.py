"""The machine that the worker runs on: the cores, memory and GPUs that this container may use.

A container on a large host sees all of the host's cores and memory; its limits are in its control
groups (version 1 or 2). Nothing is decided here: `models` uses these numbers.
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

_NO_LIMIT = 1 << 60
"""The least number that means "no limit": version 1 writes it as the largest number of pages."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One NVIDIA GPU, or the one instance of a divided GPU (MIG) that CUDA shows.

    `compute_capability`: such as "9.0"; None if the driver does not know it. `uuid`: the driver's
    name for it ("GPU-..." or "MIG-..."), by which CUDA can be told to show it; None likewise.
    """

    index: int
    name: str
    total_bytes: int
    free_bytes: int
    compute_capability: str | None = None
    uuid: str | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """Usable cores, memory in bytes (all of it, and what is free now), and visible GPUs.

    `unreadable`: names of what the driver has and cannot read, each with the driver's reason.
    """

    cores: int
    memory_bytes: int
    memory_available: int
    gpus: tuple[Gpu, ...] = ()
    unreadable: tuple[str, ...] = ()

    def explain(self) -> str:
        """Describe the machine in one line, for people."""
        gpus = ", ".join(
            f"GPU {gpu.index} {gpu.name} ({_gib(gpu.free_bytes)} of {_gib(gpu.total_bytes)} free)"
            for gpu in self.gpus
        )
        cores = "1 core" if self.cores == 1 else f"{self.cores} cores"
        memory = f"{_gib(self.memory_available)} of {_gib(self.memory_bytes)} memory free"
        unreadable = "".join(f", unreadable: {each}" for each in self.unreadable)
        return f"{cores}, {memory}, {gpus or 'no GPU'}{unreadable}"


def process_seconds() -> float:
    """Return the seconds since this process began, to a hundredth; 0 if they are not known.

    The kernel's own clock is used: the time of day may be set while a container starts, and the
    moment of the boot, which other ways need, is known to the second only.
    """
    try:
        stat = Path("/proc/self/stat").read_text(encoding="ascii", errors="replace")
        ticks = int(stat.rpartition(")")[2].split()[19])
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, AttributeError):
        return 0.0


def interpreter_seconds() -> float:
    """Return the seconds that this process had run when the first of our modules was imported."""
    return max(0.0, process_seconds() - (time.monotonic() - STARTED))


def mapped_bytes(pid: int) -> int:
    """Return the bytes of files that a process has mapped and in memory; 0 if it is gone."""
    return _table(_read(Path(f"/proc/{pid}/status"))).get("RssFile:", 0) * 1024


def probe(
    environ: Mapping[str, str],
    *,
    cgroups: Path = Path("/sys/fs/cgroup"),
    membership: Path = Path("/proc/self/cgroup"),
    host_cores: Callable[[], int] | None = None,
    host_memory: Callable[[], tuple[int, int]] | None = None,
    gpus: Callable[[Mapping[str, str]], tuple[Gpu, ...]] | None = None,
) -> Machine:
    """Measure the machine as this process may use it. Takes milliseconds, more with GPUs."""
    groups = tuple(_groups(cgroups, membership))
    unreadable: list[str] = []
    total, available = _memory(groups, (host_memory or _host_memory)())
    return Machine(
        cores=_cores(groups, (host_cores or _schedulable)()),
        memory_bytes=total,
        memory_available=available,
        gpus=gpus(environ) if gpus else nvidia_gpus(environ, unreadable.append),
        unreadable=tuple(unreadable),
    )


def nvidia_gpus(
    environ: Mapping[str, str], unreadable: Callable[[str], None] = lambda _: None
) -> tuple[Gpu, ...]:
    """Return the GPUs that CUDA would show here, in its order; none without a working driver.

    `unreadable` is called with the name of each GPU that cannot be read, or with the driver's.
    """
    try:
        import pynvml
    except ImportError:
        return ()
    try:
        pynvml.nvmlInit()
    except (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded):
        return ()  # a machine without GPUs
    except pynvml.NVMLError as error:
        unreadable(f"the NVIDIA driver ({error})")
        return ()
    try:
        return tuple(_visible(pynvml, environ.get("CUDA_VISIBLE_DEVICES"), unreadable))
    except pynvml.NVMLError as error:
        unreadable(f"the NVIDIA driver ({error})")
        return ()
    finally:
        pynvml.nvmlShutdown()


@dataclass(frozen=True, slots=True)
class _Device:
    """A device as the driver hands it out; `instance`: it is a part of the GPU `whole`."""

    index: int
    label: str
    handle: Any
    whole: Any
    instance: bool


def _visible(nvml: Any, chosen: str | None, unreadable: Callable[[str], None]) -> Iterator[Gpu]:
    """Yield the GPUs that CUDA shows.

    Of divided GPUs it shows one instance, the first that is chosen or lent to this container, and
    no other GPU beside it.
    """
    devices = tuple(_devices(nvml, chosen, unreadable))
    instances = [device for device in devices if device.instance]
    for device in instances[:1] or devices:
        try:
            yield _gpu(nvml, device)
        except nvml.NVMLError as error:
            unreadable(f"{device.label} ({error})")


def _devices(nvml: Any, chosen: str | None, unreadable: Callable[[str], None]) -> Iterator[_Device]:
    """Yield the devices up to the first wrong entry of `chosen`, as CUDA does."""
    if chosen is None:
        entries = [str(number) for number in range(nvml.nvmlDeviceGetCount())]
        if not entries:
            unreadable("the NVIDIA driver (it shows no GPU)")
    else:
        entries = [entry.strip() for entry in chosen.split(",")]
    for index, entry in enumerate(entries):
        label = f"GPU {entry}"
        try:
            handle = _handle(nvml, entry)
            if handle is None:
                return
            label = f"GPU {entry} {nvml.nvmlDeviceGetName(handle)}"
            yield _device(nvml, handle, index, label, instance=entry.startswith("MIG-"))
        except (nvml.NVMLError, LookupError) as error:
            unreadable(f"{label} ({error})")


def _handle(nvml: Any, entry: str) -> Any:
    """Return the handle of a GPU by its number or unique id; None if there is no such GPU."""
    try:
        if entry.isdecimal():
            return nvml.nvmlDeviceGetHandleByIndex(int(entry))
        if entry.startswith(("GPU-", "MIG-")):
            return nvml.nvmlDeviceGetHandleByUUID(entry)
    except (nvml.NVMLError_InvalidArgument, nvml.NVMLError_NotFound):
        pass
    return None


def _device(nvml: Any, handle: Any, index: int, label: str, *, instance: bool) -> _Device:
    """Return a GPU, or its first instance where it is divided: the whole then tells a container
    nothing of itself, or what is all instances' together.

    Raises LookupError if none of its instances is to be had.
    """
    if instance:
        whole = nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)
        return _Device(index, label, handle, whole, True)
    if not _divided(nvml, handle):
        return _Device(index, label, handle, handle, False)
    for number in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            part = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)
        except nvml.NVMLError:  # no instance has this number
            continue
        return _Device(index, label, part, handle, True)
    raise LookupError("it is divided by MIG, and this container has none of its instances")


def _divided(nvml: Any, handle: Any) -> bool:
    try:
        current, _ = nvml.nvmlDeviceGetMigMode(handle)
    except nvml.NVMLError:  # most GPUs, and old drivers, know nothing of it
        return False
    return bool(current == nvml.NVML_DEVICE_MIG_ENABLE)


def _gpu(nvml: Any, device: _Device) -> Gpu:
    memory = nvml.nvmlDeviceGetMemoryInfo(device.handle)
    return Gpu(
        index=device.index,
        name=str(nvml.nvmlDeviceGetName(device.handle)),
        total_bytes=int(memory.total),
        free_bytes=int(memory.free),
        compute_capability=_capability(nvml, device.whole),
        uuid=_uuid(nvml, device.handle),
    )


def _capability(nvml: Any, handle: Any) -> str | None:
    try:
        major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    except nvml.NVMLError:
        return None
    return f"{major}.{minor}"


def _uuid(nvml: Any, handle: Any) -> str | None:
    try:
        return str(nvml.nvmlDeviceGetUUID(handle))
    except nvml.NVMLError:
        return None


@dataclass(frozen=True, slots=True)
class _ControlGroup:
    """The limits and the use of one control group; None stands for no limit."""

    cpus: float | None = None
    memory_limit: int | None = None
    memory_used: int = 0


def _groups(root: Path, membership: Path) -> Iterator[_ControlGroup]:
    """Yield every control group that limits this process, from its own up to the root of the mount.

    The path in /proc/self/cgroup may be the host's, which does not exist inside the container; the
    container's own limits are then at the root of the mount.
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


def _version_2(group: Path) -> _ControlGroup:
    quota, _, period = _read(group / "cpu.max").strip().partition(" ")
    return _ControlGroup(
        cpus=int(quota) / int(period) if quota.isdecimal() and period.isdecimal() else None,
        memory_limit=_number(group / "memory.max"),
        memory_used=_used(group, "memory.current", ("inactive_file", "active_file")),
    )


def _version_1_cpu(group: Path) -> _ControlGroup:
    quota = _number(group / "cpu.cfs_quota_us")
    period = _number(group / "cpu.cfs_period_us")
    return _ControlGroup(cpus=quota / period if quota and period else None)


def _version_1_memory(group: Path) -> _ControlGroup:
    return _ControlGroup(
        memory_limit=_number(group / "memory.limit_in_bytes"),
        memory_used=_used(
            group, "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")
        ),
    )


def _used(group: Path, usage: str, caches: tuple[str, str]) -> int:
    """Return the bytes in use, without those of cached files, which can be reclaimed."""
    statistics = _table(_read(group / "memory.stat"))
    cached = sum(statistics.get(name, 0) for name in caches)
    return max((_number(group / usage) or 0) - cached, 0)


def _cores(groups: tuple[_ControlGroup, ...], schedulable: int) -> int:
    quotas = [math.ceil(group.cpus) for group in groups if group.cpus is not None]
    return max(min([schedulable, *quotas]), 1)


def _schedulable() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory(groups: tuple[_ControlGroup, ...], host: tuple[int, int]) -> tuple[int, int]:
    """Return all bytes and free bytes: the host's, or the tightest group's if that is less."""
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
    """Return the number in a control file; None if there is none, or it means no limit."""
    text = _read(path).strip()
    return int(text) if text.isdecimal() and int(text) < _NO_LIMIT else None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
