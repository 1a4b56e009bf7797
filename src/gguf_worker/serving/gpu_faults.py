"""Faults of this machine's GPUs: which end a start, so that another host is tried.

A model that silently runs on the CPU of a machine that is paid for its GPU is the worst answer, on
a queue above all, where another host is to be had: see docs/decisions/041.
"""

from __future__ import annotations

from collections.abc import Mapping

from gguf_worker.config import ALL_LAYERS, Machine, Settings
from gguf_worker.errors import ConfigError, EngineStartFailed


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
