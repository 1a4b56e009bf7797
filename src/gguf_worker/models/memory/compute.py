"""The memory that llama.cpp computes in: its compute and output buffers, from a model's header.

llama.cpp reserves them for its largest pass, and reuses the space of tensors that are no longer
needed. So a buffer is as large as the most that is needed at one time: in attention, the
feed-forward, a recurrent layer, or for the logits. The tensors alive at each were read from
llama.cpp's graphs and measured; the way in which llama.cpp places them changes a buffer by a few
per cent. The machine's memory and the number of contexts are not known here.

Measured on a CPU: llama, qwen3, qwen3moe, gemma3, lfm2, mamba2 and bert; for a GPU there was only a
published log. Other architectures count as their nearest relative; other recurrent ones (rwkv,
delta nets) and multi-head latent attention are a guess.
"""

from __future__ import annotations

from dataclasses import dataclass

from gguf_worker.models.gguf import Header

_FLOAT = 4
_ROW_INPUTS = 32
"""Bytes of a token's id, position and cell numbers."""
_NO_LOGITS_BESIDE_EMBEDDINGS = frozenset({"lfm2", "lfm2moe"})
"""Architectures that compute no logits in a context for embeddings, of those measured."""


@dataclass(frozen=True, slots=True)
class Pass:
    """The largest pass that a context can be asked for."""

    tokens: int
    sequences: int
    outputs: int
    """Number of tokens whose logits are wanted."""
    cells: int
    """KV cells that a token may see; a model without a memory sees the tokens of the pass."""
    flash: bool
    embeds: bool = False
    """The context is for embeddings."""


def compute_bytes(header: Header, largest: Pass) -> int:
    """Return the bytes of llama.cpp's compute buffer, on the device that has the layers."""
    rows = _rows(largest)
    alive = max(_feed_forward(header, largest), _attention(header, largest), _recurrent(header))
    states = largest.sequences * max((layer.state for layer in header.layers), default=0)
    layers = rows * (alive * _FLOAT + _mask(header, largest)) + states * _FLOAT
    return rows * _ROW_INPUTS + max(layers, _logits(header, largest))


def input_bytes(header: Header, largest: Pass) -> int:
    """Return the bytes of the inputs that the host prepares for a GPU that has all layers.

    They are the embeddings of tokens, and attention masks.
    """
    inputs = header.embedding_length * _FLOAT + _mask(header, largest) + _ROW_INPUTS
    return _rows(largest) * inputs


def output_bytes(header: Header, largest: Pass) -> int:
    """Return the bytes of logits, and of embeddings where they are wanted, on the host.

    Space for logits is reserved even where the model has none.
    """
    width = header.vocabulary + (header.embedding_length if largest.embeds else 0)
    return max(largest.outputs, largest.sequences) * width * _FLOAT


def _rows(largest: Pass) -> int:
    """Return the tokens of a pass, of which llama.cpp reserves equally many for each sequence."""
    return -(-largest.tokens // largest.sequences) * largest.sequences


# Elements (f32) of one token, alive at the same time.


def _feed_forward(header: Header, largest: Pass) -> int:
    width, inside, used = header.embedding_length, header.feed_forward_length, header.experts_used
    alive = (3 if header.gated else 1) * inside + 3 * width
    if used * width > 2 * inside:  # the experts' outputs don't fit into the space of gate and input
        alive += used * width
    if not _has_memory(header) or header.recurrent_width:
        return alive
    if not largest.flash and _slides(header):
        return alive + 2 * _queries(header) + 4 * _keys(header)
    return alive + _queries(header)


def _attention(header: Header, largest: Pass) -> int:
    if not _attends(header):
        return 0
    width, queries, keys = header.embedding_length, _queries(header), _keys(header)
    memory = _has_memory(header)
    if largest.flash:
        if not memory:  # keys and values are copied into f16
            return 2 * queries + 2 * keys + width * 3 // 2
        return max(3 * width + 2 * queries, 2 * width + 2 * queries + 2 * keys)
    alive = (3 if memory else 2) * width + 2 * queries + 2 * keys
    if _slides(header):
        alive += 2 * keys
    return alive + max(header.head_count) * _seen(header, largest)


def _recurrent(header: Header) -> int:
    return header.recurrent_width and header.embedding_length + header.recurrent_width


def _logits(header: Header, largest: Pass) -> int:
    without = header.embeds_only or (
        largest.embeds and header.architecture in _NO_LOGITS_BESIDE_EMBEDDINGS
    )
    if without:
        return 0
    rows = _rows(largest)
    logits = min(rows, largest.outputs) * header.vocabulary * _FLOAT
    masks = rows * _mask(header, largest)
    if logits <= masks:  # the masks' space is free by then
        return 0
    return logits + masks + rows * 3 * header.embedding_length * _FLOAT


def _mask(header: Header, largest: Pass) -> int:
    """Return the masks' bytes per token: a mask of all cells, and one of a sliding window's."""
    if not _attends(header):
        return 0
    masks = 2 if _slides(header) else 1
    return masks * (2 if largest.flash else _FLOAT) * _seen(header, largest)


def _seen(header: Header, largest: Pass) -> int:
    return largest.cells if _has_memory(header) else _rows(largest)


def _has_memory(header: Header) -> bool:
    return any(layer.key for layer in header.layers)


def _attends(header: Header) -> bool:
    return _has_memory(header) or not any(layer.state for layer in header.layers)


def _slides(header: Header) -> bool:
    return any(layer.sliding for layer in header.layers)


def _queries(header: Header) -> int:
    return max(header.head_count) * header.key_length


def _keys(header: Header) -> int:
    return max(header.head_count_kv) * header.key_length
