"""A model's sizes where others are on the same machine, or are to come.

Of what its weights leave free, a model takes half; the next of such models finds room more often
so. It takes more only where half is too little to be of use. Beside others it has to be of use at
once, else one of them has to leave first: a model that nobody can use takes memory for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gguf_worker.errors import ModelUnsupported
from gguf_worker.models.gguf import Header
from gguf_worker.models.memory.fit import Fit, fit
from gguf_worker.models.memory.sizes import ALL_LAYERS, USEFUL_CONTEXT

if TYPE_CHECKING:
    from gguf_worker.config import Machine, Settings


def fit_among(
    settings: Settings, machine: Machine, header: Header, *, gpu_offload: bool, alone: bool
) -> Fit | None:
    """Return the sizes for a model on what `machine` has free now.

    None where another model should leave first. `alone`: there is no other; then the errors are
    those of `fit`, and beside others ConfigError only.
    """
    try:
        half = fit(settings, _half(machine, header), header, gpu_offload=gpu_offload)
        if _is_of_use(half, settings, machine, header):
            return half
    except ModelUnsupported:
        pass
    try:
        whole = fit(settings, machine, header, gpu_offload=gpu_offload)
    except ModelUnsupported:
        if alone:
            raise
        return None
    return whole if alone or _is_of_use(whole, settings, machine, header) else None


def fit_alone(settings: Settings, machine: Machine, header: Header, *, gpu_offload: bool) -> Fit:
    """Return the sizes for a model while no other is in memory.

    A model of a catalog leaves room for more of them. The errors are those of `fit`.
    """
    if settings.catalog is None:
        return fit(settings, machine, header, gpu_offload=gpu_offload)
    sizes = fit_among(settings, machine, header, gpu_offload=gpu_offload, alone=True)
    assert sizes is not None
    return sizes


def machine_beside(machine: Machine, path: Path, others: Sequence[tuple[Path, int]]) -> Machine:
    """Return the machine as it is for one more model, of the file at `path`, beside the `others`.

    Of those each has a file and so many bytes of it mapped. They count as free, but each of their
    steps reads them. A file is in memory once.
    """
    mapped: dict[Path, int] = {}
    for other, size in others:
        if other != path:
            mapped[other] = max(size, mapped.get(other, 0))
    free = machine.memory_available - sum(mapped.values())
    return replace(machine, memory_available=max(0, free))


def _half(machine: Machine, header: Header) -> Machine:
    """Return the machine with half of what the weights leave free, wherever they are."""
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
    """Return whether it fits, with a context to work with.

    Where there are GPUs it has to fit on them as a whole.
    """
    wanted = settings.ctx_size or USEFUL_CONTEXT
    context = min(wanted, settings.kv_size or wanted, header.context_length)
    chosen = settings.gpu_layers is not None or not machine.gpus
    whole = chosen or sizes.gpu_layers.value == ALL_LAYERS
    return sizes.fits and sizes.context.value >= context and whole
