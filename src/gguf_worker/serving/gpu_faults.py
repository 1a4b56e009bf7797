"""Faults of this machine's GPUs: which end a start, so that another host is tried.

A model that silently runs on the CPU of a machine that is paid for its GPU is the worst answer, on
a queue above all, where another host is to be had: see docs/decisions/041.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

from gguf_worker.config import ALL_LAYERS, Gpu, Machine, Settings
from gguf_worker.errors import ConfigError, EngineStartFailed
from gguf_worker.models.memory import Fit

log = logging.getLogger("gguf_worker.app")

_LEAST_FREE = 0.75
"""Fraction of a GPU that is free where nobody uses it, and more: a driver takes some per cent."""


def on_queue(settings: Settings, environ: Mapping[str, str]) -> bool:
    """Return whether the jobs come from RunPod's queue, which replaces a worker that ends."""
    return settings.worker_mode == "queue" and "RUNPOD_WEBHOOK_GET_JOB" in environ


def check_readable(settings: Settings, machine: Machine, *, queue: bool) -> None:
    """Refuse a machine on which the model would be on the CPU against what was asked for.

    Raises EngineStartFailed, which may pass, where GPUs are there and none can be read: its memory
    is not known, so no sizes can be chosen for it. Raises ConfigError where there is none at all.
    """
    if machine.gpus or settings.gpu_layers == 0:
        return
    wanted = settings.gpu_layers
    if machine.unreadable and (wanted is not None or queue):
        raise EngineStartFailed(
            f"No GPU can be used: {', '.join(machine.unreadable)} cannot be read. Another machine "
            "may do; to run on the CPU, set GPU_LAYERS=0.",
            lacking=True,
        )
    if wanted is not None:
        layers = "all" if wanted == ALL_LAYERS else wanted
        raise ConfigError(
            f"GPU_LAYERS={layers}, and this machine has no GPU. Choose one with a GPU, or set "
            "GPU_LAYERS to auto or 0 to run on the CPU.",
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
