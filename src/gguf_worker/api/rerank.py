"""Documents ranked by how well they answer a query: the reader and the writer of /v1/rerank.

Both follow the format that Jina, Cohere, vLLM and llama-server agree on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field, StringConstraints

from gguf_worker.api.reading import (
    MAX_CHARACTERS,
    MAX_INT32,
    TEXT,
    JsonSchema,
    StrictModel,
    User,
    list_of,
    read_model,
    refuse_foreign,
)
from gguf_worker.errors import GenerationFailed, InvalidRequest
from gguf_worker.providers import ModelCard, Ranking, RankingRequest

MAX_DOCUMENTS = 2048

_FOREIGN = {
    "max_chunks_per_doc": "shorten the documents",
    "max_tokens_per_doc": "shorten the documents",
    "rank_fields": "send each document as one text",
    "raw_scores": "scores are between 0 and 1",
    "truncate_prompt_tokens": "shorten the documents",
    "truncation": "shorten the documents",
}

_DOCUMENT = {
    "anyOf": [TEXT, {"type": "object", "properties": {"text": TEXT}, "required": ["text"]}]
}


class RerankBody(StrictModel):
    """The body of /v1/rerank."""

    DOCUMENTED_AS: ClassVar[Mapping[str, JsonSchema]] = {
        "documents": list_of(_DOCUMENT, MAX_DOCUMENTS)
    }

    model: str | None = None
    query: Annotated[str, StringConstraints(min_length=1)]
    documents: Annotated[list[Any], Field(min_length=1, max_length=MAX_DOCUMENTS)]
    top_n: Annotated[int, Field(ge=1, le=MAX_INT32)] | None = None
    return_documents: bool = True
    user: User | None = None


@dataclass(frozen=True, slots=True)
class RerankCall:
    """A checked body. `top_n`: the number of best documents to return; None: all."""

    model: str | None
    request: RankingRequest
    top_n: int | None
    return_documents: bool
    warnings: tuple[str, ...] = ()


def read_rerank(body: Mapping[str, Any], *, id: str, deadline: float | None) -> RerankCall:
    """Read the body of /v1/rerank. An InvalidRequest names a wrong document by its index."""
    refuse_foreign(body, _FOREIGN)
    sent, warnings = read_model(body, RerankBody)
    documents = tuple(_text(each, f"documents[{at}]") for at, each in enumerate(sent.documents))
    if sum(map(len, documents)) + len(sent.query) * len(documents) > MAX_CHARACTERS:
        raise InvalidRequest(
            f"The pairs of `query` and `documents` have more than {MAX_CHARACTERS} "
            "characters in all.",
            param="documents",
        )
    request = RankingRequest(id, sent.query, documents, deadline)
    return RerankCall(sent.model, request, sent.top_n, sent.return_documents, warnings)


async def write_ranking(ranking: Ranking, call: RerankCall, card: ModelCard) -> dict[str, Any]:
    """Return the answer to a call of the model on `card`, as `ranking_object` makes it."""
    return ranking_object(ranking, call, card.name)


def ranking_object(ranking: Ranking, call: RerankCall, model: str) -> dict[str, Any]:
    """Return the documents, the best first; documents with equal scores keep their order.

    `relevance_score` is the sigmoid of the model's score: such models are trained to give log-odds,
    and Jina's and Cohere's clients set thresholds between 0 and 1. Raises GenerationFailed for a
    score that is NaN.
    """
    for at, score in enumerate(ranking.scores):
        if math.isnan(score):
            raise GenerationFailed(f"The model's score of `documents[{at}]` is not a number.")
    best = sorted(enumerate(ranking.scores), key=lambda each: -each[1])[: call.top_n]
    results: list[dict[str, Any]] = []
    for index, score in best:
        result: dict[str, Any] = {"index": index, "relevance_score": _sigmoid(score)}
        if call.return_documents:
            result["document"] = {"text": call.request.documents[index]}
        results.append(result)
    cost = ranking.prompt_tokens
    return {
        "id": f"rerank-{call.request.id}",
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
    # Of two equivalent forms, the one whose exponential cannot overflow.
    if score >= 0:
        return 1 / (1 + math.exp(-score))
    odds = math.exp(score)
    return odds / (1 + odds)
