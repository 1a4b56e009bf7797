"""The sizes of a model that shares the machine with others, now or later.

A model takes half of the memory that its weights leave free, so that the next one is more likely to
fit, and more only where half is too little for a useful context. Beside other models its context
must be useful at once; else one of them has to be unloaded first, since a model with a tiny context
would take memory for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gguf_worker.errors import EngineStartFailed
from gguf_worker.models.gguf import Header
from gguf_worker.models.memory.fit import Fit, fit
from gguf_worker.models.memory.sizes import ALL_LAYERS, USEFUL_CONTEXT

if TYPE_CHECKING:
    from gguf_worker.config import Machine, Settings


def fit_among(
    settings: Settings, machine: Machine, header: Header, *, gpu_offload: bool, alone: bool
) -> Fit | None:
    """Return the sizes for a model in the memory that `machine` has free now.

    Returns None where another model should be unloaded first. `alone`: no other model is in memory;
    it then raises as `fit` does, and beside others ConfigError only.
    """
    try:
        half = fit(settings, _half(machine, header), header, gpu_offload=gpu_offload)
        if _is_of_use(half, settings, machine, header):
            return half
    except EngineStartFailed:
        pass
    try:
        whole = fit(settings, machine, header, gpu_offload=gpu_offload)
    except EngineStartFailed:
        if alone:
            raise
        return None
    return whole if alone or _is_of_use(whole, settings, machine, header) else None


def fit_alone(settings: Settings, machine: Machine, header: Header, *, gpu_offload: bool) -> Fit:
    """Return the sizes for a model while no other is in memory.

    A model of a catalog leaves memory for further ones. Raises as `fit` does.
    """
    if settings.catalog is None:
        return fit(settings, machine, header, gpu_offload=gpu_offload)
    sizes = fit_among(settings, machine, header, gpu_offload=gpu_offload, alone=True)
    assert sizes is not None
    return sizes


def machine_beside(machine: Machine, path: Path, others: Sequence[tuple[Path, int]]) -> Machine:
    """Return the machine with the memory that is free for one more model, of the file at `path`.

    `others`: the file of each model in memory, and the bytes of it that are mapped. The kernel
    counts those as free, but each step of the model reads them, so they are subtracted here, except
    for `path` itself: a file is in memory only once.
    """
    mapped: dict[Path, int] = {}
    for other, size in others:
        if other != path:
            mapped[other] = max(size, mapped.get(other, 0))
    free = machine.memory_available - sum(mapped.values())
    return replace(machine, memory_available=max(0, free))


def _half(machine: Machine, header: Header) -> Machine:
    """Return the machine with memory for the weights, and half of the rest.

    Where there are GPUs, the weights count there.
    """
    weights = header.tensor_bytes
    each = weights // max(1, len(machine.gpus))
    gpus = tuple(
        replace(gpu, free_bytes=min(gpu.free_bytes, (gpu.free_bytes + each) // 2))
        for gpu in machine.gpus
    )
    free = machine.memory_available
    host = free // 2 if gpus else min(free, (free + weights) // 2)
    return replace(machine, memory_available=host, gpus=gpus)


def _is_of_use(sizes: Fit, settings: Settings, machine: Machine, header: Header) -> bool:
    """Return whether the model fits with a useful context.

    Where there are GPUs, all layers have to fit on them, unless their number is set.
    """
    wanted = settings.ctx_size or USEFUL_CONTEXT
    context = min(wanted, settings.kv_size or wanted, header.context_length)
    chosen = settings.gpu_layers is not None or not machine.gpus
    whole = chosen or sizes.gpu_layers.value == ALL_LAYERS
    return sizes.fits and sizes.context.value >= context and whole
