"""Faults of this machine's GPUs: which end a start, so that another host is tried.

A model that silently runs on the CPU of a machine that is paid for its GPU is the worst answer, on
a queue above all, where another host is to be had: see docs/decisions/041.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

from gguf_worker.config import ALL_LAYERS, Gpu, Machine, Settings
from gguf_worker.engine import GpuSupport, ask_for_gpus, built_for_gpus
from gguf_worker.errors import ConfigError, EngineStartFailed
from gguf_worker.models.memory import Fit

log = logging.getLogger("gguf_worker.app")

_NOT_BUILT = (
    "there is a GPU, but llama-cpp-python was built without CUDA: the model runs on the CPU. Build "
    "with ACCEL=cuda."
)
_UNSEEN = (
    "llama.cpp finds a GPU whose memory nobody tells, because the driver's NVML is missing: "
    "NVIDIA_DRIVER_CAPABILITIES has to name compute and utility"
)
_REMEDY = (
    "Give the endpoint a GPU, allow only CUDA versions that the image can use, or take the image "
    "for CPUs."
)
_LEAST_FREE = 0.75
"""Fraction of a GPU that is free where nobody uses it, and more: a driver takes some per cent."""


def on_queue(settings: Settings, environ: Mapping[str, str]) -> bool:
    """Return whether the jobs come from RunPod's queue, which replaces a worker that ends."""
    return settings.worker_mode == "queue" and "RUNPOD_WEBHOOK_GET_JOB" in environ


def usable_machine(settings: Settings, machine: Machine, environ: Mapping[str, str]) -> Machine:
    """Return the machine with GPUs only if the model may be on them, before any size is chosen.

    Where it has GPUs, only the engine's process finds out whether CUDA can use them; see
    `machine_without`, which raises likewise. Where it has none, llama.cpp is asked for the reason.
    """
    if settings.gpu_layers == 0:
        return machine
    if (machine.gpus or machine.unreadable) and not built_for_gpus():
        return machine_without(settings, machine, environ, GpuSupport("not_built"))
    if machine.gpus:
        return machine
    if machine.unreadable:
        if settings.gpu_layers is not None or on_queue(settings, environ):
            raise _unusable(f"{', '.join(machine.unreadable)} cannot be read.")
        return machine
    # What the user hides is as good as not built for.
    support = GpuSupport("not_built") if _chooses_none(environ) else ask_for_gpus()
    return machine_without(settings, machine, environ, support)


def machine_without(
    settings: Settings, machine: Machine, environ: Mapping[str, str], support: GpuSupport
) -> Machine:
    """Return the machine without its GPUs, which llama.cpp cannot use; the log says why.

    Raises EngineStartFailed, which may pass, where there is a GPU or a driver, and the model would
    be on the CPU against what was asked for, or on the queue. Raises ConfigError where it is the
    same on every host: there is no driver, or llama.cpp was not built for GPUs.
    """
    demanded = settings.gpu_layers is not None
    if support.state == "not_built":
        if demanded:
            raise _wrong_setting(settings, machine)
        if machine.gpus:
            log.warning("%s", _NOT_BUILT)
        return replace(machine, gpus=())
    problem = f"{support.reason or _UNSEEN}."
    if machine.gpus or support.state != "not_loaded":
        if demanded or on_queue(settings, environ):
            raise _unusable(f"{problem} {_REMEDY}")
    elif demanded:
        raise _wrong_setting(settings, machine, f" ({support.reason})")
    log.warning("the model runs on the CPU: llama.cpp can use no GPU: %s %s", problem, _REMEDY)
    return replace(machine, gpus=())


def visible_devices(machine: Machine) -> dict[str, str]:
    """Return the variable that has CUDA show only the GPUs that the sizes are for, in their order.

    Empty where CUDA shows these anyway, or the driver knows no unique ids. A GPU that cannot be
    read would get a part of the model, or fail the whole of CUDA.
    """
    ids = [gpu.uuid for gpu in machine.gpus if gpu.uuid is not None]
    others = machine.unreadable or any(each.startswith("MIG-") for each in ids)
    if not others or not ids or len(ids) < len(machine.gpus):
        return {}
    return {"CUDA_VISIBLE_DEVICES": ",".join(ids)}


def _chooses_none(environ: Mapping[str, str]) -> bool:
    """Return whether CUDA_VISIBLE_DEVICES is set, and begins with no GPU: "" or "-1"."""
    first, _, _ = environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")
    return not (first.strip().isdecimal() or first.strip().startswith(("GPU-", "MIG-")))


def _unusable(problem: str) -> EngineStartFailed:
    return EngineStartFailed(
        f"No GPU can be used: {problem} Another machine may do; to run on the CPU, set "
        "GPU_LAYERS=0.",
        lacking=True,
    )


def _wrong_setting(settings: Settings, machine: Machine, reason: str = "") -> ConfigError:
    layers = "all" if settings.gpu_layers == ALL_LAYERS else settings.gpu_layers
    lack, remedy = "this machine has no GPU", "Choose one with a GPU"
    if machine.gpus or machine.unreadable:
        lack, remedy = "llama.cpp was built without CUDA", "Build with ACCEL=cuda"
    return ConfigError(
        f"GPU_LAYERS={layers}, and {lack}{reason}. {remedy}, or set GPU_LAYERS to auto or 0 to run "
        "on the CPU.",
        param="GPU_LAYERS",
    )


def sizes_where_free(
    sizes: Callable[[Machine], Fit | None], machine: Machine, *, queue: bool
) -> Fit | None:
    """Return the sizes for a machine on whose GPUs this worker has nothing yet.

    Where others hold memory of a GPU, it is said in the log. Raises EngineStartFailed, which may
    pass, if the model would fit without them; on the queue also if more of it would be on the GPUs.
    """
    held = [gpu for gpu in machine.gpus if gpu.free_bytes < gpu.total_bytes * _LEAST_FREE]
    if not held:
        return sizes(machine)
    problem = _held_by_others(held)
    free = replace(
        machine, gpus=tuple(replace(gpu, free_bytes=gpu.total_bytes) for gpu in machine.gpus)
    )
    try:
        found = sizes(machine)
    except EngineStartFailed:
        sizes(free)  # raises too, if others are not the reason
        raise EngineStartFailed(f"The model does not fit: {problem}", lacking=True) from None
    if queue and _offloaded(found) < _offloaded(sizes(free)):
        raise EngineStartFailed(
            f"The model does not fit on the GPU: {problem} Another machine may do.", lacking=True
        )
    log.warning("%s", problem)
    return found


def _held_by_others(gpus: list[Gpu]) -> str:
    shown = ", ".join(
        f"GPU {gpu.index} {gpu.name} has {gpu.free_bytes / 2**30:.1f} of "
        f"{gpu.total_bytes / 2**30:.1f} GiB free"
        for gpu in gpus
    )
    return f"{shown}, and other processes hold the rest."


def _offloaded(sizes: Fit | None) -> tuple[bool, float]:
    """Return how much of a model is on the GPUs, as a value that can be compared."""
    if sizes is None:
        return False, 0
    layers = sizes.gpu_layers.value
    return sizes.fits, float("inf") if layers == ALL_LAYERS else layers
