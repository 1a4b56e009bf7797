"""The capabilities of a model, and the one check of a request against them.

They are known once the model was open, and stay true while it is not in memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from gguf_worker.errors import InvalidRequest, wrong_model
from gguf_worker.providers.request import EmbeddingRequest, GenerationRequest, RankingRequest


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The capabilities of a served model."""

    generates: bool = True
    """Text can be generated."""
    pooling: str = "none"
    """`none` (no embeddings), `rank` (scores in place of them), or the pooling of embeddings."""
    most_answers: int | None = None
    """Answers that one request can have; None: any number."""
    infill: bool = False
    """Text between a prompt and a suffix can be generated."""

    def check(self, request: GenerationRequest | EmbeddingRequest | RankingRequest) -> None:
        """Raise InvalidRequest if the model cannot serve such a request, whatever its texts are."""
        match request:
            case GenerationRequest():
                self._check_answers(request)
            case RankingRequest() if self.pooling != "rank":
                raise wrong_model("scores", self.pooling)
            case EmbeddingRequest() if self.pooling in ("none", "rank"):
                raise wrong_model("embeddings", self.pooling)

    def _check_answers(self, request: GenerationRequest) -> None:
        if not self.generates:
            raise wrong_model("text", self.pooling)
        if self.most_answers is not None and request.answers > self.most_answers:
            raise InvalidRequest(
                f"{request.answers} answers are more than this worker can hold at once, which is "
                f"{self.most_answers} (MAX_CONCURRENCY and MAX_QUEUE together). Ask for fewer.",
                param="n" if request.n > 1 else "prompt",
            )
        if request.suffix and not self.infill:
            raise InvalidRequest(
                "This model cannot fill in the middle: its vocabulary has no tokens for that. "
                "Leave out `suffix`.",
                param="suffix",
            )
