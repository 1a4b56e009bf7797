"""How large an engine a machine can carry for a model: context, sequences, KV cells, GPU layers.

What is set is taken; what is `auto` is the largest that fits, up to the defaults below. The sums are
llama.cpp's own for weights, KV cache and states, and `compute`'s for its buffers. A model for embeddings
has a context for texts, in place of the one that generates or beside it. Nothing is opened or probed here.

Weights count in full, on the host too, where llama.cpp maps the file and they are page cache. The kernel can
take that back, in a container with a memory limit as well, but each step reads all weights: a model whose
weights don't stay in memory would be read from the disk for every token. Memory that is free (MemAvailable,
or the limit less what is used and not page cache) counts this cache as free, so nothing is counted twice.

Some weights (Q4_0 and its like on a CPU) llama.cpp rearranges into a copy: that takes their place, and the
file's pages are not read again.

With a GPU: the weights, KV cells and states of its layers are there, and a compute buffer, on each GPU where
there are several; token embeddings, inputs and outputs are on the host. That was read from llama.cpp's code
and not measured, for want of a GPU; nor were the copies of weights that long batches take to a GPU with a
part of the layers, nor those of inputs for several GPUs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Generic, TypeVar

from gguf_worker.errors import ConfigError, ModelUnsupported
from gguf_worker.models.gguf import Header, Purpose, purpose_of
from gguf_worker.models.memory import compute
from gguf_worker.models.memory.compute import Pass

if TYPE_CHECKING:
    from gguf_worker.config import Machine, Settings

T = TypeVar("T")

ALL_LAYERS = -1

_SMALLEST_CONTEXT = 512
# A context that makes a model useful: for less than this, layers rather leave the GPU.
USEFUL_CONTEXT = 4096
_PAD = 256
"""llama.cpp rounds cells up to a multiple of this."""
QUEUED_PER_SEQUENCE = 4
GPU_SEQUENCES = 32
"""Requests that are computed at the same time on a GPU, where nothing else is set."""
_MOST_IDS = 256
"""Sequence ids that llama.cpp knows."""
# Each id costs a row of logits; where the model has a state, also one of these, which may take megabytes.
_LEAST_IDLE, _LEAST_IDLE_STATES = 16, 8
_THREADS_BESIDE_GPU = 4
# CUDA's own context and libraries on each GPU; the engine process itself.
_GPU_OVERHEAD = 512 << 20
_HOST_OVERHEAD = 192 << 20
_LEFT_ALONE = 10
"""One part in so many of the free memory: what the sums don't know, and what others may come to need."""
_TEXTS, _TEXTS_WITH_STATES = 64, 8
"""Texts in one batch of embeddings, and where each has a state; as engine/pooled.py has it."""
_PIPELINE_COPIES = 4
"""Of the inputs, where several GPUs work one after the other."""

_ELEMENT_BYTES = {
    "f32": Fraction(4),
    "f16": Fraction(2),
    "bf16": Fraction(2),
    "q8_0": Fraction(34, 32),
    "q5_1": Fraction(24, 32),
    "q5_0": Fraction(22, 32),
    "q4_1": Fraction(20, 32),
    "q4_0": Fraction(18, 32),
}


@dataclass(frozen=True, slots=True)
class Choice(Generic[T]):
    """A value for the engine; `reason` is "set", or why it is what it is."""

    value: T
    reason: str


@dataclass(frozen=True, slots=True)
class Fit:
    """The engine's sizes. `gpu_layers` counts the output layer as one more; -1 is all of them.

    Where nothing is generated there are no KV cells, `context` bounds a text, and `sequences` are requests
    that are computed together.
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
    """Ended requests, beside the running ones, whose cells can be kept for reuse."""
    kv_layout: Choice[str]
    prefill_chunk: Choice[int]
    step_mixing: Choice[str]
    weights_bytes: int
    kv_bytes: int
    """KV cache and recurrent states together."""
    compute_bytes: int
    """llama.cpp's compute and output buffers."""
    gpu_bytes: int
    """All that is on GPUs, and 0 without; likewise the next, on the host."""
    host_bytes: int
    fits: bool
    """As far as the sums go; what was set may be more than there is room for."""

    @property
    def pooling(self) -> Choice[str]:
        """What POOLING comes to."""
        return Choice(self.purpose.pooling, self.purpose.reason)

    def explain(self) -> str:
        """One line for the log."""
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
        where = f"{_size(self.host_bytes)} of memory"
        if self.gpu_bytes:
            where = f"{_size(self.gpu_bytes)} of GPU memory and {where}"
        return (
            f"{layers} layers on the GPU ({self.gpu_layers.reason}), "
            f"{self.threads.value} threads; weights {_size(self.weights_bytes)}, "
            f"KV {_size(self.kv_bytes)}, compute {_size(self.compute_bytes)}: {where}"
        )


@dataclass(frozen=True, slots=True)
class _Defaults:
    context: int
    sequences: int
    batch: int
    ubatch: int
    chunk: int
    shares: int
    """The cache has room for a full context of one sequence in so many."""
    device: str


_MOST_CLEARED = 1 << 30
"""Bytes of KV cache without a GPU that are worth the half second of a start in which they are cleared."""

_ON_GPU = _Defaults(16384, GPU_SEQUENCES, 2048, 512, 512, 1, "on a GPU")
# A step bounds the pace of the streams that run: 192 rows, three tiles of flash attention, are read as fast
# as longer pieces.
# Cells are cleared when the engine starts, about 0.5 s for a GiB of them, and few requests fill theirs.
_ON_CPU = _Defaults(8192, 8, 512, 512, 192, 4, "without a GPU")


def fit(settings: Settings, machine: Machine, header: Header, *, gpu_offload: bool) -> Fit:
    """Decide every size. `gpu_offload`: llama.cpp was built for the machine's GPUs.

    Raises ModelUnsupported when not even one sequence of 512 tokens fits, ConfigError when a setting
    cannot go with this model.
    """
    purpose = purpose_of(header, settings.pooling)
    with_gpu = gpu_offload and bool(machine.gpus) and settings.gpu_layers != 0
    defaults = _ON_GPU if with_gpu else _ON_CPU
    batch, ubatch = _batches(settings, defaults, header)
    kv_type = _kv_type(settings, header)
    room = _Room(machine, with_gpu=with_gpu)

    def sizes(*, unified: bool) -> _Sizes:
        cost = _Cost(
            header,
            element=_ELEMENT_BYTES[kv_type.value],
            ubatch=ubatch.value,
            flash=settings.flash_attention != "off",
            unified=unified,
            purpose=purpose,
            longest=_wanted_context(settings, header, defaults),
            gpus=room.gpus,
        )
        return _Sizes(settings, header, defaults, cost, room, _gpu_layers(settings, cost, room))

    if purpose.generates:
        layout = _layout(settings, header, sizes, most=None if with_gpu else _MOST_CLEARED)
    else:
        layout = Choice("unified", "nothing is generated")
    chosen = sizes(unified=layout.value == "unified")
    cost, offloaded = chosen.cost, chosen.offloaded
    context, sequences, cells = chosen.choose()
    held = cells.value or context.value
    return Fit(
        purpose=purpose,
        context=context,
        sequences=sequences,
        kv_cells=cells,
        gpu_layers=offloaded,
        kv_type=kv_type,
        flash_attention=_or(settings.flash_attention, "auto", "where model and device support it"),
        threads=_threads(settings, machine, offloaded),
        batch_size=batch,
        ubatch_size=ubatch,
        max_queue=_or(
            settings.max_queue,
            QUEUED_PER_SEQUENCE * sequences.value,
            f"{QUEUED_PER_SEQUENCE} for each sequence",
        ),
        idle_sequences=Choice(cost.idle(sequences.value), "what is worth its memory"),
        kv_layout=layout,
        prefill_chunk=_or(
            settings.prefill_chunk,
            min(defaults.chunk, ubatch.value),
            f"the default {defaults.device}",
        ),
        step_mixing=_step_mixing(settings, layout.value),
        weights_bytes=header.tensor_bytes,
        kv_bytes=cost.kv_bytes(held, sequences.value),
        compute_bytes=cost.buffer_bytes(held, sequences.value),
        gpu_bytes=cost.on_gpu(chosen.layers, held, sequences.value),
        host_bytes=cost.on_host(chosen.layers, held, sequences.value),
        fits=room.holds(cost, chosen.layers, held, sequences.value),
    )


class _Cost:
    """What a model takes in bytes, for so many layers on the GPU, cells and sequences.

    `longest`: tokens of the longest text of which an embedding may be wanted; never more than `cells`.
    Where nothing is generated the cells are those of one text.
    """

    def __init__(
        self,
        header: Header,
        *,
        element: Fraction,
        ubatch: int,
        flash: bool,
        unified: bool,
        purpose: Purpose,
        longest: int,
        gpus: int,
    ) -> None:
        self._gpus = gpus
        self.unified = unified
        self.purpose = purpose
        self._longest = longest
        self._header = header
        self._element = element
        self._ubatch = ubatch
        self._flash = flash
        self.all_layers = header.block_count + 1
        """Blocks, and the output layer."""

    def idle(self, sequences: int) -> int:
        """Ids for ended requests, which may be reused. One with cells of its own takes a context of memory:
        one is enough that a running sequence can move without anybody being forgotten."""
        if not self.purpose.generates:
            return 0
        if not self.unified:
            return min(1, _MOST_IDS - sequences)
        least = _LEAST_IDLE_STATES if _has_states(self._header) else _LEAST_IDLE
        return min(max(least, sequences), _MOST_IDS - sequences)

    def own_cells(self, context: int, sequences: int) -> int:
        """Cells of a cache in which every id has a context of its own."""
        return (sequences + self.idle(sequences)) * _padded(context)

    def on_gpu(self, layers: int, cells: int, sequences: int) -> int:
        """Of all GPUs together."""
        if layers == 0:
            return 0
        first = self._first_on_gpu(layers)
        weights = sum(self._header.block_bytes[first:]) + self._output_bytes()
        memory = self._layers_bytes(range(first, self._blocks), cells, sequences)
        passes = self._passes(cells, sequences)
        buffers = sum(compute.compute_bytes(self._header, each) for each in passes)
        if self._gpus > 1:
            inputs = sum(compute.input_bytes(self._header, each) for each in passes)
            buffers += (_PIPELINE_COPIES - 1) * inputs
        # A long batch takes the weights of the layers on the host to the GPU, one after the other.
        borrowed = max(self._header.block_bytes[:first], default=0)
        return weights + memory + max(self._gpus, 1) * buffers + borrowed

    def on_host(self, layers: int, cells: int, sequences: int) -> int:
        staying = range(self._first_on_gpu(layers))
        weights = sum(self._header.block_bytes[: staying.stop]) + self._header.embedding_bytes
        if layers == 0:
            weights = self._header.tensor_bytes
        memory = self._layers_bytes(staying, cells, sequences)
        buffer = compute.compute_bytes if staying else compute.input_bytes
        for each in self._passes(cells, sequences):
            memory += buffer(self._header, each) + compute.output_bytes(self._header, each)
        return weights + memory

    def kv_bytes(self, cells: int, sequences: int) -> int:
        return self._layers_bytes(range(self._blocks), cells, sequences)

    def buffer_bytes(self, cells: int, sequences: int) -> int:
        """Compute and output buffers together."""
        return sum(
            compute.compute_bytes(self._header, each) + compute.output_bytes(self._header, each)
            for each in self._passes(cells, sequences)
        )

    def _passes(self, cells: int, sequences: int) -> list[Pass]:
        """The largest of each context."""
        passes = []
        if self.purpose.generates:
            ids = sequences + self.idle(sequences)
            seen = cells if self.unified else cells // ids
            tokens = min(self._ubatch, seen * (1 if self.unified else ids))
            passes.append(Pass(tokens, ids, ids, seen, self._flash))
        if self.purpose.embeds:
            rows, held = self._texts(cells)
            texts = min(self._texts_at_once(), rows)
            passes.append(Pass(rows, texts, rows, held, self._flash, embeds=True))
        return passes

    def _texts_at_once(self) -> int:
        states = any(layer.state for layer in self._header.layers)
        return _TEXTS_WITH_STATES if states else _TEXTS

    def _texts(self, cells: int) -> tuple[int, int]:
        """Rows of one batch of texts, and the cells of their context. Where tokens see all of their text it is
        read whole."""
        longest = min(cells, self._longest)
        rows = self._ubatch if self._header.causal else max(self._ubatch, longest)
        return rows, _padded(longest + rows)

    @property
    def _blocks(self) -> int:
        return self._header.block_count

    def _first_on_gpu(self, layers: int) -> int:
        """llama.cpp offloads from the end: the output layer first, then the last block."""
        return min(max(self._blocks + 1 - layers, 0), self._blocks)

    def _output_bytes(self) -> int:
        header = self._header
        rest = header.tensor_bytes - sum(header.block_bytes) - header.embedding_bytes
        return rest + (header.embedding_bytes if header.tied_embeddings else 0)

    def _layers_bytes(self, layers: range, cells: int, sequences: int) -> int:
        held, states = 0, 0
        if self.purpose.generates:
            held, states = cells, sequences + self.idle(sequences)
        if self.purpose.embeds:
            held += self._texts(cells)[1]
            states += _TEXTS_WITH_STATES
        total = Fraction(0)
        for layer in self._header.layers[layers.start : layers.stop]:
            total += held * (layer.key + layer.value) * self._element
            total += layer.state * 4 * states
        return int(total)


class _Room:
    """What a machine has free, less what is left alone."""

    def __init__(self, machine: Machine, *, with_gpu: bool) -> None:
        gpus = machine.gpus if with_gpu else ()
        self.gpus = len(gpus)
        self.gpu = sum(max(_usable(gpu.free_bytes) - _GPU_OVERHEAD, 0) for gpu in gpus)
        self.host = max(_usable(machine.memory_available) - _HOST_OVERHEAD, 0)

    def holds(self, cost: _Cost, layers: int, cells: int, sequences: int) -> bool:
        return (
            cost.on_gpu(layers, cells, sequences) <= self.gpu
            and cost.on_host(layers, cells, sequences) <= self.host
        )


def _gpu_layers(settings: Settings, cost: _Cost, room: _Room) -> Choice[int]:
    if settings.gpu_layers is not None:
        return Choice(settings.gpu_layers, "set")
    if not room.gpus:
        return Choice(0, "there is no GPU, or llama.cpp was built without it")

    def fits(count: int) -> bool:
        return cost.on_gpu(count, USEFUL_CONTEXT, 1) <= room.gpu

    if fits(cost.all_layers):
        return Choice(ALL_LAYERS, "the whole model fits")
    layers = _largest(0, cost.all_layers - 1, fits)
    return Choice(layers, f"as many of {cost.all_layers} as fit into {_size(room.gpu)}")


class _Sizes:
    """Context, sequences and cells, which depend on each other."""

    def __init__(
        self,
        settings: Settings,
        header: Header,
        defaults: _Defaults,
        cost: _Cost,
        room: _Room,
        offloaded: Choice[int],
    ) -> None:
        self._settings = settings
        self._header = header
        self._defaults = defaults
        self.cost = cost
        self.offloaded = offloaded
        self._room = room
        layers = offloaded.value
        self.layers = cost.all_layers if layers == ALL_LAYERS else min(layers, cost.all_layers)

    def choose(self) -> tuple[Choice[int], Choice[int], Choice[int]]:
        self._check_smallest()
        if not self.cost.purpose.generates:
            return self._for_texts()
        context = self._context()
        sequences = self._sequences(context.value)
        return context, sequences, self._cells(context.value, sequences.value)

    def affordable(self, most: int | None) -> bool:
        """Does what `choose` says fit into memory, with a KV cache of at most `most` bytes?"""
        _, sequences, cells = (choice.value for choice in self.choose())
        size = self.cost.kv_bytes(cells, sequences)
        return self._holds(cells, sequences) and (most is None or size <= most)

    def _for_texts(self) -> tuple[Choice[int], Choice[int], Choice[int]]:
        """The longest text; how many requests are computed together costs nothing."""
        trained = self._header.context_length
        wanted = _wanted_context(self._settings, self._header, self._defaults)
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
        sequences = _or(
            self._settings.max_concurrency, count, f"the default {self._defaults.device}"
        )
        return context, sequences, Choice(0, "nothing is generated")

    def _check_smallest(self) -> None:
        cells = min(_SMALLEST_CONTEXT, _padded(self._header.context_length))
        if self._holds(cells, 1):
            return
        gpu = self.cost.on_gpu(self.layers, cells, 1)
        host = self.cost.on_host(self.layers, cells, 1)
        parts = [f"{_size(host)} of memory with {_size(self._room.host)} usable"]
        if self._room.gpus:
            parts.insert(0, f"{_size(gpu)} of GPU memory with {_size(self._room.gpu)} usable")
        raise ModelUnsupported(
            f"{self._header.path} does not fit on this machine: with a context of only {cells} tokens "
            f"it needs {' and '.join(parts)}. Use a larger machine or a smaller quantisation."
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
        """Each sequence should find at least a quarter of a context, or 512 tokens."""
        if self._settings.max_concurrency is not None:
            return Choice(self._settings.max_concurrency, "set")
        default = self._defaults.sequences
        share = max(context // 4, min(_SMALLEST_CONTEXT, context))

        def carried(count: int) -> bool:
            if self._settings.kv_size is not None:
                return count * share <= self._settings.kv_size
            if not self.cost.unified:
                return self._holds(self.cost.own_cells(context, count), count)
            return self._holds(_padded(max(context, count * share)), count)

        count = _largest(1, default, carried)
        if count < default:
            return Choice(count, "what memory allows")
        return Choice(default, f"the default {self._defaults.device}")

    def _cells(self, context: int, sequences: int) -> Choice[int]:
        if self._settings.kv_size is not None:
            return Choice(_padded(self._settings.kv_size), "set")
        if not self.cost.unified:
            cells = self.cost.own_cells(context, sequences)
            if not self._holds(cells, sequences):
                return Choice(cells, "KV_LAYOUT: more than seems to fit into memory")
            return Choice(cells, "KV_LAYOUT: a context for every sequence and one to rest in")
        full = -(-sequences // self._defaults.shares)
        wanted = _padded(context * full)
        cells = max(self._most_cells(sequences, wanted), _padded(context))
        if not self._holds(cells, sequences):
            return Choice(cells, "one full context, more than seems to fit into memory")
        if cells < wanted:
            return Choice(cells, "what memory allows, shared by all sequences")
        if full < sequences:
            return Choice(cells, f"{full} full contexts, shared by all sequences")
        return Choice(cells, "a full context for every sequence")

    def _most_context(self, limit: int) -> int:
        """The longest context that memory allows, up to `limit`, for as many sequences as there must be."""
        sequences = self._settings.max_concurrency
        if self.cost.unified or sequences is None:
            return self._most_cells(1, limit)
        low, high = _padded(min(_SMALLEST_CONTEXT, limit)) // _PAD, _padded(limit) // _PAD
        count = _largest(
            low,
            high,
            lambda count: self._holds(self.cost.own_cells(count * _PAD, sequences), sequences),
        )
        return min(count * _PAD, limit)

    def _most_cells(self, sequences: int, limit: int) -> int:
        """The most cells that memory allows, up to `limit`; never fewer than the smallest number."""
        low, high = _padded(min(_SMALLEST_CONTEXT, limit)) // _PAD, _padded(limit) // _PAD
        return _PAD * _largest(low, high, lambda count: self._holds(count * _PAD, sequences))

    def _holds(self, cells: int, sequences: int) -> bool:
        return self._room.holds(self.cost, self.layers, cells, sequences)


def _wanted_context(settings: Settings, header: Header, defaults: _Defaults) -> int:
    """Tokens of one request, if memory allows. An encoder has learned its positions, and knows no others."""
    trained = header.context_length
    wanted = settings.ctx_size or min(trained, defaults.context)
    return min(wanted, trained) if header.embeds_only else wanted


def _batches(
    settings: Settings, defaults: _Defaults, header: Header
) -> tuple[Choice[int], Choice[int]]:
    """A step's tokens and a pass's: a step has room for one token of every sequence."""
    rows = settings.max_concurrency or defaults.sequences
    least = max(defaults.batch, settings.ubatch_size or 0, rows)
    batch = _or(settings.batch_size, least, f"the default {defaults.device}")
    ubatch = _or(
        settings.ubatch_size,
        min(defaults.ubatch, batch.value),
        f"the default {defaults.device}",
    )
    if any(layer.sliding for layer in header.layers):  # see engine/llama.py
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


def _has_states(header: Header) -> bool:
    """Does the model's memory, or a part of it, know the present only?"""
    return any(layer.sliding or layer.state for layer in header.layers)


def _layout(
    settings: Settings, header: Header, sizes: Callable[..., _Sizes], most: int | None
) -> Choice[str]:
    """Cells for each sequence where that takes nothing away: no context, no sequence, and little time.

    Attention then sees one sequence's cells, and what rests costs nothing: see docs/decisions/014.
    """
    if _has_states(header):
        return Choice("unified", "this model's memory can't be copied in parts")
    if settings.kv_layout is not None:
        return Choice(settings.kv_layout, "set")
    if settings.kv_size is not None:
        return Choice("unified", "KV_SIZE is shared by all")
    pooled, own = sizes(unified=True), sizes(unified=False)
    if pooled.choose()[:2] != own.choose()[:2] or not own.affordable(most):
        return Choice("unified", "a context for every sequence would take too much memory")
    return Choice("partitioned", "a context for every sequence fits into memory")


def _step_mixing(settings: Settings, layout: str) -> Choice[str]:
    # A pass of llama.cpp then takes equally many tokens of each sequence: one of a prompt beside one of each
    # answer, and the rest of the prompt in a pass of its own.
    if layout == "partitioned":
        return _or(
            settings.step_mixing, "alternate", "prompts don't fit into the passes of answers"
        )
    return _or(settings.step_mixing, "mixed", "the default")


def _threads(settings: Settings, machine: Machine, offloaded: Choice[int]) -> Choice[int]:
    if offloaded.value == ALL_LAYERS:
        few = min(machine.cores, _THREADS_BESIDE_GPU)
        return _or(settings.threads, few, "the GPU does the work")
    return _or(settings.threads, machine.cores, "the cores that may be used")


def _or(value: T | None, otherwise: T, reason: str) -> Choice[T]:
    return Choice(otherwise, reason) if value is None else Choice(value, "set")


def _largest(low: int, high: int, fits: Callable[[int], bool]) -> int:
    """The largest number from `low` to `high` that fits, where each smaller one fits too; or low."""
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low


def _usable(free: int) -> int:
    return free - free // _LEFT_ALONE


def _padded(cells: int) -> int:
    return (cells + _PAD - 1) // _PAD * _PAD


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
