"""The sizes that depend on memory: layers on the GPU, context, sequences and KV cells.

A value that is set is taken; `auto` becomes the largest value that fits, up to the defaults.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from gguf_worker.errors import EngineStartFailed
from gguf_worker.models.gguf import Header
from gguf_worker.models.memory.budget import MemoryBudget, shown_size
from gguf_worker.models.memory.cost import PAD, ModelCost, padded

if TYPE_CHECKING:
    from gguf_worker.config import Settings

T = TypeVar("T")

ALL_LAYERS = -1
USEFUL_CONTEXT = 4096
"""Least context that makes a model useful: layers stay off the GPU to leave room for it."""
_SMALLEST_CONTEXT = 512


@dataclass(frozen=True, slots=True)
class Choice(Generic[T]):
    """A value for the engine; `reason` is "set", or the reason for the value, for the log."""

    value: T
    reason: str


@dataclass(frozen=True, slots=True)
class Defaults:
    """The upper limits of `auto` values; `device` names in words the device they are for."""

    context: int
    sequences: int
    batch: int
    ubatch: int
    chunk: int
    shares: int
    """Number of sequences for each full context that the cache has room for."""
    device: str


def gpu_layers(settings: Settings, cost: ModelCost, budget: MemoryBudget) -> Choice[int]:
    """Return the number of layers on the GPUs: all, or as many as leave room for a useful
    context."""
    chosen = settings.gpu_layers
    if chosen is not None and chosen >= cost.all_layers:
        return Choice(ALL_LAYERS, f"set; the model has {cost.all_layers}")
    if chosen is not None:
        return Choice(chosen, "set")
    if not budget.gpus:
        return Choice(0, "no GPU can be used")

    def fits(count: int) -> bool:
        return cost.on_gpu(count, USEFUL_CONTEXT, 1) <= budget.gpu

    if fits(cost.all_layers):
        return Choice(ALL_LAYERS, "the whole model fits")
    layers = _largest(0, cost.all_layers - 1, fits)
    return Choice(layers, f"as many of {cost.all_layers} as fit into {shown_size(budget.gpu)}")


class SizeChoice:
    """The choice of context, sequences and cells, which depend on each other."""

    def __init__(
        self,
        settings: Settings,
        header: Header,
        defaults: Defaults,
        cost: ModelCost,
        budget: MemoryBudget,
        offloaded: Choice[int],
    ) -> None:
        self._settings = settings
        self._header = header
        self._defaults = defaults
        self.cost = cost
        self.offloaded = offloaded
        self._budget = budget
        layers = offloaded.value
        self.layers = cost.all_layers if layers == ALL_LAYERS else min(layers, cost.all_layers)

    def choose(self) -> tuple[Choice[int], Choice[int], Choice[int]]:
        """Return context, sequences and cells.

        Raises EngineStartFailed where not even the smallest context fits now.
        """
        self._check_smallest()
        if not self.cost.purpose.generates:
            return self._for_texts()
        context = self._context()
        sequences = self._sequences(context.value)
        return context, sequences, self._cells(context.value, sequences.value)

    def affordable(self, most: int | None) -> bool:
        """Return whether the chosen sizes fit into memory.

        `most`: limit of the KV cache's bytes; None: there is none.
        """
        _, sequences, cells = (choice.value for choice in self.choose())
        size = self.cost.kv_bytes(cells, sequences)
        return self._holds(cells, sequences) and (most is None or size <= most)

    def _for_texts(self) -> tuple[Choice[int], Choice[int], Choice[int]]:
        """Return the sizes for texts: the context bounds a text, and sequences cost no memory."""
        trained = self._header.context_length
        wanted = wanted_context(self._settings, self._header, self._defaults)
        if self._settings.ctx_size is not None:
            more = self._settings.ctx_size > wanted
            context = Choice(
                wanted, f"the model can read no more than {trained}" if more else "set"
            )
        elif (most := self._most_cells(1, wanted)) < wanted:
            context = Choice(most, "what memory allows")
        elif wanted == trained:
            context = Choice(wanted, "as the model was trained")
        else:
            context = Choice(wanted, f"the default {self._defaults.device}, of {trained} trained")
        count = self._defaults.sequences
        sequences = taken_or(
            self._settings.max_concurrency, count, f"the default {self._defaults.device}"
        )
        return context, sequences, Choice(0, "nothing is generated")

    def _check_smallest(self) -> None:
        cells = min(_SMALLEST_CONTEXT, padded(self._header.context_length))
        if self._holds(cells, 1):
            return
        gpu = self.cost.on_gpu(self.layers, cells, 1)
        host = self.cost.on_host(self.layers, cells, 1)
        parts = [f"{shown_size(host)} of memory with {shown_size(self._budget.host)} usable"]
        if self._budget.gpus:
            parts.insert(
                0, f"{shown_size(gpu)} of GPU memory with {shown_size(self._budget.gpu)} usable"
            )
        # Even a machine that is too small when it is empty says nothing of other hosts: those of an
        # endpoint differ in memory, and often in their GPUs.
        raise EngineStartFailed(
            f"{self._header.path} does not fit on this machine: with a context of only {cells} "
            f"tokens it needs {' and '.join(parts)}. Use a larger machine or a smaller "
            "quantisation.",
            lacking=True,
        )

    def _context(self) -> Choice[int]:
        trained = self._header.context_length
        wanted = self._settings.ctx_size or min(trained, self._defaults.context)
        held = self._settings.kv_size
        if held is not None and held < wanted:
            return Choice(held, "KV_SIZE holds no more")
        if self._settings.ctx_size is not None:
            if wanted > trained:
                return Choice(wanted, f"set; the model was trained on {trained} and may lose track")
            return Choice(wanted, "set")
        if held is None and (most := self._most_context(wanted)) < wanted:
            return Choice(most, "what memory allows")
        if wanted == trained:
            return Choice(wanted, "as the model was trained")
        return Choice(wanted, f"the default {self._defaults.device}, of {trained} trained")

    def _sequences(self, context: int) -> Choice[int]:
        """Return the number of sequences.

        Each should find space for at least a quarter of a context, or 512 tokens.
        """
        if self._settings.max_concurrency is not None:
            return Choice(self._settings.max_concurrency, "set")
        default = self._defaults.sequences
        share = max(context // 4, min(_SMALLEST_CONTEXT, context))

        def carried(count: int) -> bool:
            if self._settings.kv_size is not None:
                return count * share <= self._settings.kv_size
            if not self.cost.unified:
                return self._holds(self.cost.own_cells(context, count), count)
            return self._holds(padded(max(context, count * share)), count)

        count = _largest(1, default, carried)
        if count < default:
            return Choice(count, "what memory allows")
        return Choice(default, f"the default {self._defaults.device}")

    def _cells(self, context: int, sequences: int) -> Choice[int]:
        if self._settings.kv_size is not None:
            return Choice(padded(self._settings.kv_size), "set")
        if not self.cost.unified:
            cells = self.cost.own_cells(context, sequences)
            if not self._holds(cells, sequences):
                return Choice(cells, "KV_LAYOUT: more than seems to fit into memory")
            return Choice(cells, "KV_LAYOUT: a context for every sequence and one to rest in")
        full = -(-sequences // self._defaults.shares)
        wanted = padded(context * full)
        cells = max(self._most_cells(sequences, wanted), padded(context))
        if not self._holds(cells, sequences):
            return Choice(cells, "one full context, more than seems to fit into memory")
        if cells < wanted:
            return Choice(cells, "what memory allows, shared by all sequences")
        if full < sequences:
            return Choice(cells, f"{full} full contexts, shared by all sequences")
        return Choice(cells, "a full context for every sequence")

    def _most_context(self, limit: int) -> int:
        """Return the longest context that memory allows, up to `limit`.

        With cells for each sequence, all sequences that are set have such a context.
        """
        sequences = self._settings.max_concurrency
        if self.cost.unified or sequences is None:
            return self._most_cells(1, limit)
        low, high = padded(min(_SMALLEST_CONTEXT, limit)) // PAD, padded(limit) // PAD
        count = _largest(
            low,
            high,
            lambda count: self._holds(self.cost.own_cells(count * PAD, sequences), sequences),
        )
        return min(count * PAD, limit)

    def _most_cells(self, sequences: int, limit: int) -> int:
        """Return the most cells that memory allows, up to `limit`, and never fewer than the
        smallest context."""
        low, high = padded(min(_SMALLEST_CONTEXT, limit)) // PAD, padded(limit) // PAD
        return PAD * _largest(low, high, lambda count: self._holds(count * PAD, sequences))

    def _holds(self, cells: int, sequences: int) -> bool:
        return self._budget.holds(self.cost, self.layers, cells, sequences)


def wanted_context(settings: Settings, header: Header, defaults: Defaults) -> int:
    """Return the tokens that one request should be able to hold, if memory allows.

    A model that only embeds is bounded by its trained context: it knows no further positions.
    """
    trained = header.context_length
    wanted = settings.ctx_size or min(trained, defaults.context)
    return min(wanted, trained) if header.embeds_only else wanted


def taken_or(value: T | None, otherwise: T, reason: str) -> Choice[T]:
    """Return `value` if it is set, else `otherwise` with its reason."""
    return Choice(otherwise, reason) if value is None else Choice(value, "set")


def _largest(low: int, high: int, fits: Callable[[int], bool]) -> int:
    """Return the largest number from `low` to `high` that fits, or `low`.

    If a number fits, all smaller ones have to fit too.
    """
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low
