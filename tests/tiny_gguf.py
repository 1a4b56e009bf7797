"""Tiny GGUF files with random weights, which llama.cpp loads and runs in milliseconds.

`benchmarks.random_model` writes the files of models that write text; here are the shapes and
options that tests need, LoRA adapters, and an encoder for embeddings and scores.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from benchmarks.random_model import BOS, CHATML, EOS, SHAPES, write

__all__ = [
    "ARCHITECTURES",
    "BOS",
    "CHATML",
    "EOS",
    "SPECIAL_WORDS",
    "Pair",
    "merge",
    "write_adapter",
    "write_decoder_reranker",
    "write_encoder",
    "write_tiny",
]

SPECIAL_WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""The first tokens of an encoder's vocabulary, ids from 0."""

_TINY = {
    SHAPES[name].architecture: SHAPES[name]
    for name in ("tiny", "tiny-sliding", "tiny-recurrent", "tiny-hybrid")
}
ARCHITECTURES = tuple(_TINY)


def write_tiny(
    path: Path,
    architecture: str = "llama",
    *,
    seed: int = 0,
    layers: int | None = None,
    context_length: int = 4096,
    vocabulary: int = 512,
    chat_template: str | None = CHATML,
    metadata: Mapping[str, Any] | None = None,
    tied: bool = False,
    tensors_per_file: int = 0,
) -> Path:
    """Write a model and return its path, or that of its first part if `tensors_per_file` splits it.

    `metadata` adds or replaces keys (int, float, str, bool or list). A `tied` model has no output
    layer of its own, so that its likeliest next token is the last one again.
    """
    shape = _TINY[architecture]
    shape = dataclasses.replace(
        shape,
        layers=layers or shape.layers,
        context=context_length,
        vocabulary=vocabulary,
        tied=tied,
    )
    return write(
        path,
        shape,
        seed=seed,
        name=f"tiny {architecture}",
        chat_template=chat_template,
        metadata=metadata,
        tensors_per_file=tensors_per_file,
    )


Pair = tuple[Any, Any]
"""The matrices A (rank, columns) and B (rows, rank) of a LoRA adapter, float32."""


def write_adapter(
    path: Path,
    model: Path,
    names: Sequence[str],
    *,
    rank: int = 4,
    alpha: float = 8.0,
    seed: int = 1,
    metadata: Mapping[str, Any] | None = None,
) -> dict[str, Pair]:
    """Write a LoRA adapter for some of a model's tensors, and return its random matrices by name.

    `metadata` adds or replaces keys (str, float or int).
    """
    reader = gguf.GGUFReader(model)
    shapes = {tensor.name: tensor.data.shape for tensor in reader.tensors}
    architecture = str(reader.fields["general.architecture"].contents())
    writer = gguf.GGUFWriter(path, str((metadata or {}).get("general.architecture", architecture)))
    keys = {"general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": alpha}
    for key, value in (keys | dict(metadata or {})).items():
        if key == "general.architecture":
            continue
        add: dict[type, Callable[[str, Any], None]] = {
            str: writer.add_string,
            float: writer.add_float32,
            int: writer.add_uint32,
        }
        add[type(value)](key, value)
    random = np.random.default_rng(seed)
    pairs = {}
    for name in names:
        rows, columns = shapes[name]
        a = random.standard_normal((rank, columns)).astype(np.float32) * columns**-0.5
        b = random.standard_normal((rows, rank)).astype(np.float32) * rank**-0.5
        writer.add_tensor(f"{name}.lora_a", a)
        writer.add_tensor(f"{name}.lora_b", b)
        pairs[name] = (a, b)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return pairs


def merge(model: Path, pairs: Mapping[str, Pair], strength: float) -> None:
    """Add `strength` (scale * alpha / rank) times B A to the model's own weights, in its file."""
    reader = gguf.GGUFReader(model, "r+")
    for tensor in reader.tensors:
        if tensor.name in pairs:
            a, b = pairs[tensor.name]
            tensor.data[:] = (tensor.data.astype(np.float32) + strength * (b @ a)).astype(
                tensor.data.dtype
            )
    reader.data.flush()


def write_decoder_reranker(path: Path, template: str) -> Path:
    """Write a model that reads from left to right and scores what it has read, and return `path`.

    `template` is the text of a pair, with `{query}` and `{document}`.
    """
    metadata = {"tokenizer.chat_template.rerank": template}
    return write(path, SHAPES["tiny-reranker"], metadata=metadata)


def write_encoder(
    path: Path,
    *,
    pooling: int | None = 1,
    head: bool = False,
    seed: int = 0,
    context_length: int = 128,
    metadata: Mapping[str, Any] | None = None,
    weight: float = 1.0,
) -> Path:
    """Write a BERT with a vocabulary of words and letters, and return `path`.

    `pooling` is llama.cpp's number; None leaves it out of the file. `head` makes it a reranker,
    with a score. `metadata` adds or replaces keys (int or str). `weight` is that of its last
    norm: with NaN all that it computes is NaN.
    """
    width, inside, layers, heads = 64, 128, 2, 4
    words = [
        "the",
        "sea",
        "is",
        "deep",
        "blue",
        "and",
        "cold",
        "fish",
        "swim",
        "in",
        "query",
        "red",
    ]
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,"
    tokens = [*SPECIAL_WORDS, *(f"\u2581{word}" for word in words)]
    tokens += [f"\u2581{letter}" for letter in letters] + list(letters)
    writer = gguf.GGUFWriter(path, "bert")
    counts: dict[str, int] = {
        "bert.context_length": context_length,
        "bert.embedding_length": width,
        "bert.block_count": layers,
        "bert.feed_forward_length": inside,
        "bert.attention.head_count": heads,
        "tokenizer.ggml.token_type_count": 2,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.unknown_token_id": 1,
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.cls_token_id": 2,
        "tokenizer.ggml.eos_token_id": 3,
        "tokenizer.ggml.seperator_token_id": 3,
        "tokenizer.ggml.mask_token_id": 4,
    }
    if pooling is not None:
        counts["bert.pooling_type"] = pooling
    for key, value in (counts | dict(metadata or {})).items():
        (writer.add_uint32 if isinstance(value, int) else writer.add_string)(key, value)
    writer.add_bool("bert.attention.causal", False)
    writer.add_float32("bert.attention.layer_norm_epsilon", 1e-12)
    writer.add_string("tokenizer.ggml.model", "bert")
    writer.add_string("tokenizer.ggml.pre", "default")
    writer.add_array("tokenizer.ggml.tokens", tokens)
    writer.add_array("tokenizer.ggml.token_type", [3] * 5 + [1] * (len(tokens) - 5))
    random = np.random.default_rng(seed)

    def noise(name: str, *shape: int) -> None:  # in ggml's order, the length of a row first
        scale = shape[0] ** -0.5
        writer.add_tensor(name, (random.standard_normal(shape[::-1]) * scale).astype(np.float32))

    def norm(name: str, weight: float = 1.0) -> None:
        writer.add_tensor(f"{name}.weight", np.full(width, weight, np.float32))
        writer.add_tensor(f"{name}.bias", np.zeros(width, np.float32))

    noise("token_embd.weight", width, len(tokens))
    noise("token_types.weight", width, 2)
    noise("position_embd.weight", width, context_length)
    norm("token_embd_norm")
    for at in (f"blk.{block}." for block in range(layers)):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            noise(f"{at}{name}.weight", width, width)
            noise(f"{at}{name}.bias", width)
        norm(at + "attn_output_norm")
        noise(at + "ffn_up.weight", width, inside)
        noise(at + "ffn_up.bias", inside)
        noise(at + "ffn_down.weight", inside, width)
        noise(at + "ffn_down.bias", width)
        norm(at + "layer_output_norm", weight)
    if head:
        noise("cls.weight", width, width)
        noise("cls.bias", width)
        noise("cls.output.weight", width, 1)
        noise("cls.output.bias", 1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
