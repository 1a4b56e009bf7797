"""Requests and answers, and the protocol of the providers that answer.

Each kind of provider has a folder of its own: `local` is this worker's model. The types here depend
on no wire format, engine or model file, so that a provider for another server needs nothing else.
"""

from gguf_worker.providers.answer import (
    Embeddings,
    Ended,
    Finish,
    Part,
    Ranking,
    TextDelta,
    ToolCallDelta,
)
from gguf_worker.providers.capabilities import Capabilities
from gguf_worker.providers.model_card import ANY_NAME, ModelCard
from gguf_worker.providers.provider import Provider
from gguf_worker.providers.request import (
    SEEDS,
    TEXT_PARAMETER,
    EmbeddingRequest,
    GenerationRequest,
    Priority,
    RankingRequest,
    ToolChoice,
    text_parameters,
)

__all__ = [
    "ANY_NAME",
    "SEEDS",
    "TEXT_PARAMETER",
    "Capabilities",
    "EmbeddingRequest",
    "Embeddings",
    "Ended",
    "Finish",
    "GenerationRequest",
    "ModelCard",
    "Part",
    "Priority",
    "Provider",
    "Ranking",
    "RankingRequest",
    "TextDelta",
    "ToolCallDelta",
    "ToolChoice",
    "text_parameters",
]
