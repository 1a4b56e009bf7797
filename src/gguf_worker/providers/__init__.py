"""Where an answer can come from, behind one small protocol."""

from gguf_worker.engine import Grammar, Sampling, TokenLogprob
from gguf_worker.providers.abilities import Abilities
from gguf_worker.providers.channels import Family, family_for
from gguf_worker.providers.local import Local
from gguf_worker.providers.request import (
    SEEDS,
    CallPiece,
    Channel,
    Embeddings,
    EmbeddingWish,
    Ended,
    Finish,
    Part,
    Piece,
    Priority,
    Provider,
    Ranking,
    RankingWish,
    ToolChoice,
    Usage,
    Wish,
)

__all__ = [
    "SEEDS",
    "Abilities",
    "CallPiece",
    "Channel",
    "EmbeddingWish",
    "Embeddings",
    "Ended",
    "Family",
    "Finish",
    "Grammar",
    "Local",
    "Part",
    "Piece",
    "Priority",
    "Provider",
    "Ranking",
    "RankingWish",
    "Sampling",
    "TokenLogprob",
    "ToolChoice",
    "Usage",
    "Wish",
    "family_for",
]
