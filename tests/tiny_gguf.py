"""Tiny GGUF files with random weights, which llama.cpp loads and runs in milliseconds.

How such a file is written is the business of `benchmarks.random_model`; here are the shapes and the
knobs that tests turn.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.random_model import BOS, CHATML, EOS, SHAPES, write

__all__ = ["ARCHITECTURES", "BOS", "CHATML", "EOS", "write_tiny"]

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
    """Write a model and return `path`; split by `tensors_per_file`, that of its first part.

    `metadata` adds or replaces keys (int, float, str, bool or list). `tied`: no output layer of its
    own, so that the models' favourite next token is the last one again.
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
