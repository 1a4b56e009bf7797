"""The memory that a model takes: weights, KV cache and states, and llama.cpp's buffers.

The sums are llama.cpp's own for weights, cache and states, and those of `compute` for buffers. The
machine's memory is not known here.

Weights count in full, on the host too, where llama.cpp maps the file and they are page cache. The
kernel can take that back, in a container with a memory limit as well, but each step reads all
weights: a model whose weights don't stay in memory would be read from the disk for every token.
Memory that is free (MemAvailable, or the limit less what is used and not page cache) counts this
cache as free, so nothing is counted twice. llama.cpp rearranges some weights (Q4_0 and the like on
a CPU) into a copy, which replaces them: the file's pages are not read again.

With a GPU: the weights, KV cells and states of its layers are there, and a compute buffer, on each
GPU where there are several; token embeddings, inputs and outputs are on the host. All of that was
read from llama.cpp's code and not measured, for want of a GPU; so were the copies of weights that
long batches take to a GPU with a part of the layers, and those of inputs for several GPUs.
"""

from __future__ import annotations

from fractions import Fraction

from gguf_worker.models.gguf import Header, Purpose
from gguf_worker.models.memory import compute
from gguf_worker.models.memory.compute import Pass

PAD = 256
"""llama.cpp rounds cells up to a multiple of this."""
_MOST_IDS = 256
"""Most sequence ids that llama.cpp allows."""
_LEAST_IDLE, _LEAST_IDLE_STATES = 16, 8
"""Least number of ids for ended requests, for models without and with states (see `has_states`).

Each id costs a row of logits; where the model has a state, also one of these, which may take
megabytes.
"""
_TEXTS, _TEXTS_WITH_STATES = 64, 8
"""Most texts in a batch of embeddings, without and with a state each; the engine uses the same."""
_PIPELINE_COPIES = 4
"""Copies of the inputs, where several GPUs work one after the other."""

ELEMENT_BYTES = {
    "f32": Fraction(4),
    "f16": Fraction(2),
    "bf16": Fraction(2),
    "q8_0": Fraction(34, 32),
    "q5_1": Fraction(24, 32),
    "q5_0": Fraction(22, 32),
    "q4_1": Fraction(20, 32),
    "q4_0": Fraction(18, 32),
}
"""Bytes of an element of the KV cache, by KV_TYPE."""


class ModelCost:
    """The bytes that a model takes, by the numbers of layers on the GPU, cells and sequences.

    `element`: bytes of one element of the KV cache. `longest`: tokens of the longest text of which
    an embedding may be wanted; it counts up to the number of cells. Where nothing is generated, the
    cells are those of one text.
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
        """Return the number of ids for ended requests, whose cells may be reused.

        Where each id has cells of its own, it takes the memory of a full context: one is enough for
        a running sequence to move without losing the cells of another.
        """
        if not self.purpose.generates:
            return 0
        if not self.unified:
            return min(1, _MOST_IDS - sequences)
        least = _LEAST_IDLE_STATES if has_states(self._header) else _LEAST_IDLE
        return min(max(least, sequences), _MOST_IDS - sequences)

    def own_cells(self, context: int, sequences: int) -> int:
        """Return the cells of a cache in which every id has a context of its own."""
        return (sequences + self.idle(sequences)) * padded(context)

    def on_gpu(self, layers: int, cells: int, sequences: int) -> int:
        """Return the bytes on all GPUs together."""
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
        """Return the bytes of the machine's own memory."""
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
        """Return the bytes of KV cache and recurrent states together, on GPUs and host."""
        return self._layers_bytes(range(self._blocks), cells, sequences)

    def buffer_bytes(self, cells: int, sequences: int) -> int:
        """Return the bytes of compute and output buffers together."""
        return sum(
            compute.compute_bytes(self._header, each) + compute.output_bytes(self._header, each)
            for each in self._passes(cells, sequences)
        )

    def _passes(self, cells: int, sequences: int) -> list[Pass]:
        """Return the largest pass of each context."""
        passes = []
        if self.purpose.generates:
            ids = sequences + self.idle(sequences)
            seen = cells if self.unified else cells // ids
            tokens = min(self._ubatch, seen * (1 if self.unified else ids))
            passes.append(Pass(tokens, ids, ids, seen, self._flash))
        if self.purpose.embeds:
            rows, held = self._texts(cells)
            texts = min(self._most_texts(), rows)
            passes.append(Pass(rows, texts, rows, held, self._flash, embeds=True))
        return passes

    def _most_texts(self) -> int:
        states = any(layer.state for layer in self._header.layers)
        return _TEXTS_WITH_STATES if states else _TEXTS

    def _texts(self, cells: int) -> tuple[int, int]:
        """Return the rows of one batch of texts, and the cells of their context.

        Where attention is not causal, a text is read whole.
        """
        longest = min(cells, self._longest)
        rows = self._ubatch if self._header.causal else max(self._ubatch, longest)
        return rows, padded(longest + rows)

    @property
    def _blocks(self) -> int:
        return self._header.block_count

    def _first_on_gpu(self, layers: int) -> int:
        """Return the first block on the GPU.

        llama.cpp offloads from the end: the output layer first, then the last block.
        """
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


def has_states(header: Header) -> bool:
    """Return whether any layer has a recurrent state or a sliding window, which forget the past."""
    return any(layer.sliding or layer.state for layer in header.layers)


def padded(cells: int) -> int:
    """Return the number of cells that llama.cpp makes for `cells`, rounded up to its padding."""
    return (cells + PAD - 1) // PAD * PAD
