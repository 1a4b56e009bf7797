"""Documents by how well they answer a query: the body of /v1/rerank, and its answer.

Both are what Jina, Cohere, vLLM and llama-server agree on. Knows no model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, StringConstraints

from gguf_worker.api.schema import User, read_shape
from gguf_worker.api.shapes import Shape
from gguf_worker.api.translation import refuse_foreign
from gguf_worker.errors import GenerationFailed, InvalidRequest
from gguf_worker.providers import Ranking, RankingRequest

MAX_DOCUMENTS = 2048
MAX_CHARACTERS = 2**24
"""Of all pairs of the query and a document."""

_FOREIGN = {
    "max_chunks_per_doc": "shorten the documents",
    "max_tokens_per_doc": "shorten the documents",
    "rank_fields": "send each document as one text",
    "raw_scores": "scores are between 0 and 1",
    "truncate_prompt_tokens": "shorten the documents",
    "truncation": "shorten the documents",
}


class RerankBody(Shape):
    model: str | None = None
    query: Annotated[str, StringConstraints(min_length=1)]
    documents: Annotated[list[Any], Field(min_length=1, max_length=MAX_DOCUMENTS)]
    top_n: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    return_documents: bool = True
    user: User | None = None


@dataclass(frozen=True, slots=True)
class RerankRequest:
    """A checked body. `top_n`: only so many of the best; None: all."""

    model: str | None
    request: RankingRequest
    top_n: int | None
    return_documents: bool


def read_rerank(body: Mapping[str, Any], *, id: str, deadline: float | None) -> RerankRequest:
    """The body of /v1/rerank; a fault of a document is named by its index."""
    refuse_foreign(body, _FOREIGN)
    asked = read_shape(body, RerankBody)
    documents = tuple(_text(each, f"documents[{at}]") for at, each in enumerate(asked.documents))
    if sum(map(len, documents)) + len(asked.query) * len(documents) > MAX_CHARACTERS:
        raise InvalidRequest(
            f"The pairs of `query` and `documents` have more than {MAX_CHARACTERS} characters in all.",
            param="documents",
        )
    request = RankingRequest(id, asked.query, documents, deadline)
    return RerankRequest(asked.model, request, asked.top_n, asked.return_documents)


def rerank_object(ranking: Ranking, request: RerankRequest, model: str) -> dict[str, Any]:
    """The best first; of equals the earlier one. Raises GenerationFailed for a score that is no number.

    `relevance_score` is the sigmoid of the model's score: what such models are trained to give is the
    logarithm of the odds, and Jina's and Cohere's clients set thresholds between 0 and 1.
    """
    for at, score in enumerate(ranking.scores):
        if math.isnan(score):
            raise GenerationFailed(f"The model's score of `documents[{at}]` is not a number.")
    best = sorted(enumerate(ranking.scores), key=lambda each: -each[1])[: request.top_n]
    results: list[dict[str, Any]] = []
    for index, score in best:
        result: dict[str, Any] = {"index": index, "relevance_score": _sigmoid(score)}
        if request.return_documents:
            result["document"] = {"text": request.request.documents[index]}
        results.append(result)
    cost = ranking.prompt_tokens
    return {
        "id": f"rerank-{request.request.id}",
        "object": "list",
        "model": model,
        "usage": {"prompt_tokens": cost, "total_tokens": cost},
        "results": results,
    }


def _text(document: Any, path: str) -> str:
    if isinstance(document, Mapping):
        document, path = document.get("text"), f"{path}.text"
    if not isinstance(document, str):
        raise InvalidRequest(f"`{path}` should be text.", param=path)
    return document


def _sigmoid(score: float) -> float:
    # Of two equal forms the one whose power cannot overflow.
    if score >= 0:
        return 1 / (1 + math.exp(-score))
    odds = math.exp(score)
    return odds / (1 + odds)
