"""What a model can be asked for at all: known once it was open, and true of it while it is not."""

from __future__ import annotations

from dataclasses import dataclass

from gguf_worker.errors import InvalidRequest
from gguf_worker.providers.request import EmbeddingRequest, GenerationRequest, RankingRequest


@dataclass(frozen=True, slots=True)
class Capabilities:
    """`generates`: it writes text. `pooling`: `none` (no embeddings), `rank` (scores in place of them), or how
    they are made. `most_answers`: so many can one request have; None: any number."""

    generates: bool = True
    pooling: str = "none"
    most_answers: int | None = None

    def check(self, request: GenerationRequest | EmbeddingRequest | RankingRequest) -> None:
        """Raises InvalidRequest where nothing can come of the request, whatever its texts are."""
        match request:
            case GenerationRequest():
                self._check_answers(request)
            case RankingRequest() if self.pooling != "rank":
                raise _wrong_model("This model gives no scores of documents: it is no reranker.")
            case EmbeddingRequest() if self.pooling == "rank":
                raise _wrong_model("This model is a reranker: it gives no embeddings.")
            case EmbeddingRequest() if self.pooling == "none":
                raise _wrong_model(
                    "This model is served for text generation, and gives no embeddings. Ask an embedding "
                    "model, or set POOLING to mean, cls or last to have embeddings of this one too."
                )

    def _check_answers(self, request: GenerationRequest) -> None:
        if not self.generates:
            purpose = "scores of documents" if self.pooling == "rank" else "embeddings"
            raise _wrong_model(
                f"This model writes no text: it is served for {purpose}. Set MODEL to a language model, "
                "or POOLING=none where this is one."
            )
        if self.most_answers is not None and request.answers > self.most_answers:
            raise InvalidRequest(
                f"{request.answers} answers are more than this worker can hold at once, which is "
                f"{self.most_answers} (MAX_CONCURRENCY and MAX_QUEUE together). Ask for fewer.",
                param="n" if request.n > 1 else "prompt",
            )


def _wrong_model(message: str) -> InvalidRequest:
    return InvalidRequest(message, param="model")
