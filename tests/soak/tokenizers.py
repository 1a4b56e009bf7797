"""What a tiny model's file says of its tokeniser: every one of the bundled llama.cpp."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gguf_worker.models.gguf.tokenizers import PRE_TOKENIZERS

_SIZE = 512
_NORMAL, _UNKNOWN, _CONTROL, _UNUSED, _BYTE = 1, 2, 3, 5, 6
_MARKS = ["<unk>", "<s>", "</s>"]
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
_WORDS = ["\u2581the", "\u2581", *"theasoifn", "\u2581a", "th", "in", "an", "\u2581s", "se", "sea"]
_WORDS += ["of", "\u2581of", "er", "\u2581sea", "on"]


def _own(model: str, tokens: list[str], kinds: list[int]) -> dict[str, Any]:
    """Return the keys of a tokeniser with tokens of its own, filled up with unused ones."""
    padding = _SIZE - len(tokens)
    return {
        "tokenizer.ggml.model": model,
        "tokenizer.ggml.tokens": tokens + [f"[unused{number}]" for number in range(padding)],
        "tokenizer.ggml.token_type": kinds + [_UNUSED] * padding,
        "tokenizer.ggml.scores": [-float(number) for number in range(_SIZE)],
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 0,
    }


def _with_bytes(model: str, kind: int = _BYTE) -> dict[str, Any]:
    kinds = [_UNKNOWN, _CONTROL, _CONTROL, *[kind] * 256, *[_NORMAL] * len(_WORDS)]
    return _own(model, [*_MARKS, *_BYTES, *_WORDS], kinds)


def _rwkv() -> dict[str, Any]:
    escaped = [f"\\x{byte:02x}" for byte in range(256)]
    return _own("rwkv", [*_MARKS, *escaped, "the", "sea"], [_CONTROL] * 3 + [_NORMAL] * 258)


TOKENIZERS: Mapping[str, Mapping[str, Any]] = {
    **{
        f"pre: {pre}": {"tokenizer.ggml.pre": pre}
        for pre in sorted(PRE_TOKENIZERS - {"whitespace"})
    },
    "tokenizer: llama": _with_bytes("llama"),
    "tokenizer: t5": _with_bytes("t5", _NORMAL),
    "tokenizer: plamo2": _with_bytes("plamo2"),
    "tokenizer: rwkv": _rwkv(),
    "tokenizer: gemma4": {"tokenizer.ggml.model": "gemma4"},
    "tokenizer: hybriddna": {"tokenizer.ggml.model": "hybriddna"},
    "tokenizer: whitespace": {"tokenizer.ggml.model": "whitespace"},
}
"""The keys that make a tiny model's tokeniser another one, by name.

`whitespace` is the pre-tokeniser of its own tokeniser alone: the worker refuses other models of it.
"""
