"""The fit of an engine to a machine and a model: every size that the engine is started with.

A value that is set is taken; `auto` becomes the largest value that fits, up to the defaults below.
A model for embeddings has a context for texts, in place of the one for generation or beside it.
Nothing is opened or probed here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gguf_worker.errors import ConfigError
from gguf_worker.models.gguf import Header, Purpose, purpose_of
from gguf_worker.models.memory.budget import MemoryBudget, shown_size
from gguf_worker.models.memory.cost import ELEMENT_BYTES, ModelCost, has_states
from gguf_worker.models.memory.sizes import (
    ALL_LAYERS,
    Choice,
    Defaults,
    SizeChoice,
    gpu_layers,
    taken_or,
    wanted_context,
)

if TYPE_CHECKING:
    from gguf_worker.config import Machine, Settings

QUEUED_PER_SEQUENCE = 4
GPU_SEQUENCES = 32
"""Requests that are computed at the same time on a GPU, unless set otherwise."""
_THREADS_BESIDE_GPU = 4
_MOST_CLEARED = 1 << 30
"""Most bytes of a partitioned KV cache on a CPU: clearing them takes half a second of the start."""

_ON_GPU = Defaults(16384, GPU_SEQUENCES, 2048, 512, 512, 1, "on a GPU")
# The rows of a step bound the interval between two tokens of running streams; 192, three tiles of
# flash attention, are as fast per row as more. The cells are cleared when the engine starts, about
# 0.5 s for a GiB, and few requests fill theirs.
_ON_CPU = Defaults(8192, 8, 512, 512, 192, 4, "without a GPU")


@dataclass(frozen=True, slots=True)
class Fit:
    """The engine's sizes. `gpu_layers` counts the output layer as one more; -1 is all of them.

    Where nothing is generated there are no KV cells, `context` bounds a text, and `sequences` are
    requests that are computed together.
    """

    purpose: Purpose
    context: Choice[int]
    sequences: Choice[int]
    kv_cells: Choice[int]
    gpu_layers: Choice[int]
    kv_type: Choice[str]
    flash_attention: Choice[str]
    threads: Choice[int]
    batch_size: Choice[int]
    ubatch_size: Choice[int]
    max_queue: Choice[int]
    idle_sequences: Choice[int]
    """Number of ended requests whose cells can be kept for reuse, beside the running ones."""
    kv_layout: Choice[str]
    prefill_chunk: Choice[int]
    step_mixing: Choice[str]
    weights_bytes: int
    kv_bytes: int
    """KV cache and recurrent states together."""
    compute_bytes: int
    """llama.cpp's compute and output buffers."""
    gpu_bytes: int
    """Bytes of everything on GPUs; 0 without GPUs."""
    host_bytes: int
    """Bytes of everything in the machine's own memory."""
    fits: bool
    """Tells whether all of it fits, by these sums: sizes that were set may need too much memory."""

    @property
    def pooling(self) -> Choice[str]:
        """The effective value of POOLING, and its reason."""
        return Choice(self.purpose.pooling, self.purpose.reason)

    def explain(self) -> str:
        """Return one line for the log."""
        purpose = self.purpose
        what = "scores" if purpose.pooling == "rank" else f"embeddings by {purpose.pooling}"
        pooled = f"{what} ({purpose.reason}), " if purpose.embeds else ""
        return pooled + (self._generation() if purpose.generates else self._texts())

    def _texts(self) -> str:
        return (
            f"texts of up to {self.context.value} tokens ({self.context.reason}), "
            f"{self.ubatch_size.value} tokens at once ({self.ubatch_size.reason}), "
            f"{self.sequences.value} requests ({self.sequences.reason}), {self._machine()}"
        )

    def _generation(self) -> str:
        return (
            f"context {self.context.value} ({self.context.reason}), "
            f"{self.sequences.value} sequences ({self.sequences.reason}), "
            f"{self.kv_cells.value} KV cells of {self.kv_type.value} ({self.kv_cells.reason}), "
            f"{self.kv_layout.value} ({self.kv_layout.reason}), "
            f"{self.step_mixing.value} steps with up to {self.prefill_chunk.value} prompt tokens "
            f"while streams run, {self._machine()}"
        )

    def _machine(self) -> str:
        layers = "all" if self.gpu_layers.value == ALL_LAYERS else str(self.gpu_layers.value)
        where = f"{shown_size(self.host_bytes)} of memory"
        if self.gpu_bytes:
            where = f"{shown_size(self.gpu_bytes)} of GPU memory and {where}"
        return (
            f"{layers} layers on the GPU ({self.gpu_layers.reason}), "
            f"{self.threads.value} threads; weights {shown_size(self.weights_bytes)}, "
            f"KV {shown_size(self.kv_bytes)}, compute {shown_size(self.compute_bytes)}: {where}"
        )


def fit(settings: Settings, machine: Machine, header: Header, *, gpu_offload: bool) -> Fit:
    """Choose every size. `gpu_offload`: llama.cpp was built for the machine's GPUs.

    Raises EngineStartFailed when not even one sequence of 512 tokens fits into what is free now,
    ConfigError when a setting cannot go with this model.
    """
    plan = _FitPlan(settings, machine, header, gpu_offload=gpu_offload)
    layout = plan.layout()
    sizes = plan.sizes(layout.value == "unified")
    cost, layers = sizes.cost, sizes.layers
    context, sequences, cells = sizes.choose()
    held = cells.value or context.value
    queue = QUEUED_PER_SEQUENCE * sequences.value
    return Fit(
        purpose=plan.purpose,
        context=context,
        sequences=sequences,
        kv_cells=cells,
        gpu_layers=sizes.offloaded,
        kv_type=plan.kv_type,
        flash_attention=taken_or(
            settings.flash_attention, "auto", "where model and device support it"
        ),
        threads=_threads(settings, machine, sizes.offloaded),
        batch_size=plan.batch,
        ubatch_size=plan.ubatch,
        max_queue=taken_or(settings.max_queue, queue, f"{QUEUED_PER_SEQUENCE} for each sequence"),
        idle_sequences=Choice(cost.idle(sequences.value), "what is worth its memory"),
        kv_layout=layout,
        prefill_chunk=plan.prefill_chunk(),
        step_mixing=_step_mixing(settings, layout.value),
        weights_bytes=header.tensor_bytes,
        kv_bytes=cost.kv_bytes(held, sequences.value),
        compute_bytes=cost.buffer_bytes(held, sequences.value),
        gpu_bytes=cost.on_gpu(layers, held, sequences.value),
        host_bytes=cost.on_host(layers, held, sequences.value),
        fits=plan.budget.holds(cost, layers, held, sequences.value),
    )


def machine_with_less(machine: Machine, sizes: Fit) -> Machine:
    """Return the machine with memory for half of the KV cache of `sizes`.

    For sizes that turned out to need more memory than the sums say.
    """
    spared = sizes.kv_bytes // 2
    if sizes.gpu_bytes == 0:
        free = MemoryBudget.free_for_host(sizes.host_bytes - spared)
        return replace(machine, memory_available=min(machine.memory_available, free))
    free = MemoryBudget.free_for_gpu((sizes.gpu_bytes - spared) // len(machine.gpus))
    gpus = (replace(gpu, free_bytes=min(gpu.free_bytes, free)) for gpu in machine.gpus)
    return replace(machine, gpus=tuple(gpus))


class _FitPlan:
    """The choices that do not depend on memory, and the inputs of those that do."""

    def __init__(
        self, settings: Settings, machine: Machine, header: Header, *, gpu_offload: bool
    ) -> None:
        self._settings = settings
        self._header = header
        self._with_gpu = gpu_offload and bool(machine.gpus) and settings.gpu_layers != 0
        self._defaults = _ON_GPU if self._with_gpu else _ON_CPU
        self.purpose = purpose_of(header, settings.pooling)
        self.batch, self.ubatch = _batches(settings, self._defaults, header)
        self.kv_type = _kv_type(settings, header)
        self.budget = MemoryBudget(machine, with_gpu=self._with_gpu)

    def sizes(self, unified: bool) -> SizeChoice:
        """Return the choice of sizes that depend on memory, for a layout of the KV cells."""
        cost = ModelCost(
            self._header,
            element=ELEMENT_BYTES[self.kv_type.value],
            ubatch=self.ubatch.value,
            flash=self._settings.flash_attention != "off",
            unified=unified,
            purpose=self.purpose,
            longest=wanted_context(self._settings, self._header, self._defaults),
            gpus=self.budget.gpus,
        )
        offloaded = gpu_layers(self._settings, cost, self.budget)
        return SizeChoice(
            self._settings, self._header, self._defaults, cost, self.budget, offloaded
        )

    def layout(self) -> Choice[str]:
        if not self.purpose.generates:
            return Choice("unified", "nothing is generated")
        most = None if self._with_gpu else _MOST_CLEARED
        return _layout(self._settings, self._header, self.sizes, most)

    def prefill_chunk(self) -> Choice[int]:
        return taken_or(
            self._settings.prefill_chunk,
            min(self._defaults.chunk, self.ubatch.value),
            f"the default {self._defaults.device}",
        )


def _batches(
    settings: Settings, defaults: Defaults, header: Header
) -> tuple[Choice[int], Choice[int]]:
    """Return the most tokens of a step and of a pass.

    A step has room for one token of every sequence.
    """
    rows = settings.max_concurrency or defaults.sequences
    least = max(defaults.batch, settings.ubatch_size or 0, rows)
    batch = taken_or(settings.batch_size, least, f"the default {defaults.device}")
    ubatch = taken_or(
        settings.ubatch_size,
        min(defaults.ubatch, batch.value),
        f"the default {defaults.device}",
    )
    if any(layer.sliding for layer in header.layers):  # the engine reads such a step in one pass
        ubatch = Choice(max(ubatch.value, rows), ubatch.reason)
        return Choice(ubatch.value, "one pass, for this model has a sliding window"), ubatch
    return batch, ubatch


def _kv_type(settings: Settings, header: Header) -> Choice[str]:
    chosen = settings.kv_type
    if chosen is None:
        return Choice("f16", "the default")
    lengths = (header.key_length, header.value_length)
    if chosen.startswith("q") and any(length % 32 for length in lengths):
        raise ConfigError(
            f"KV_TYPE={chosen} needs attention heads of a multiple of 32, and this model's are "
            f"{header.key_length} long. Use KV_TYPE=f16.",
            param="KV_TYPE",
        )
    return Choice(chosen, "set")


def _layout(
    settings: Settings, header: Header, sizes: Callable[[bool], SizeChoice], most: int | None
) -> Choice[str]:
    """Return the layout of the KV cells: cells for each sequence, where that costs little.

    It may reduce neither context nor sequences, and take up to `most` bytes (None: any number).
    Attention then passes over one sequence's cells only, and idle cells cost nothing: see
    docs/decisions/014.
    """
    if has_states(header):
        return Choice("unified", "this model's memory can't be copied in parts")
    if settings.kv_layout is not None:
        return Choice(settings.kv_layout, "set")
    if settings.kv_size is not None:
        return Choice("unified", "KV_SIZE is shared by all")
    pooled, own = sizes(True), sizes(False)
    if pooled.choose()[:2] != own.choose()[:2] or not own.affordable(most):
        return Choice("unified", "a context for every sequence would take too much memory")
    return Choice("partitioned", "a context for every sequence fits into memory")


def _step_mixing(settings: Settings, layout: str) -> Choice[str]:
    # A pass of llama.cpp then takes equally many tokens of each sequence: one of a prompt beside
    # one of each answer, and the rest of the prompt in a pass of its own.
    if layout == "partitioned":
        return taken_or(
            settings.step_mixing, "alternate", "prompts don't fit into the passes of answers"
        )
    return taken_or(settings.step_mixing, "mixed", "the default")


def _threads(settings: Settings, machine: Machine, offloaded: Choice[int]) -> Choice[int]:
    if offloaded.value == ALL_LAYERS:
        few = min(machine.cores, _THREADS_BESIDE_GPU)
        return taken_or(settings.threads, few, "the GPU does the work")
    return taken_or(settings.threads, machine.cores, "the cores that may be used")
