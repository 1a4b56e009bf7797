"""Where an answer can come from, behind one small protocol."""

from gguf_worker.engine import Sampling
from gguf_worker.providers.local import Local
from gguf_worker.providers.request import (
    SEEDS,
    Ended,
    Finish,
    Part,
    Piece,
    Priority,
    Provider,
    Usage,
    Wish,
)

__all__ = [
    "SEEDS",
    "Ended",
    "Finish",
    "Local",
    "Part",
    "Piece",
    "Priority",
    "Provider",
    "Sampling",
    "Usage",
    "Wish",
]
