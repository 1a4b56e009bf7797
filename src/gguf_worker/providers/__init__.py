"""The domain's words for a request and its answer, and the protocol of everything that answers.

Each kind of provider has a folder of its own: `local` is this worker's model. The words know no
wire format, no engine and no model file, so a provider for another server is written with them
alone.
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
from gguf_worker.providers.model_card import ModelCard
from gguf_worker.providers.provider import Provider
from gguf_worker.providers.request import (
    SEEDS,
    EmbeddingRequest,
    GenerationRequest,
    Priority,
    RankingRequest,
    ToolChoice,
)

__all__ = [
    "SEEDS",
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
]
