"""Requests against the abilities of their model, and the texts of the refusals."""

from __future__ import annotations

from typing import Literal

import pytest

from gguf_worker.errors import InvalidRequest, wrong_model
from gguf_worker.generation import Sampling
from gguf_worker.providers import (
    Capabilities,
    EmbeddingRequest,
    GenerationRequest,
    RankingRequest,
)

Wanted = Literal["text", "embeddings", "scores"]

REQUESTS: dict[Wanted, GenerationRequest | EmbeddingRequest | RankingRequest] = {
    "text": GenerationRequest("r", Sampling(), ("a",)),
    "embeddings": EmbeddingRequest("r", ("a",)),
    "scores": RankingRequest("r", "a", ("b",)),
}

MODELS: list[tuple[Capabilities, set[Wanted]]] = [
    (Capabilities(), {"text"}),
    (Capabilities(pooling="mean"), {"text", "embeddings"}),
    (Capabilities(generates=False, pooling="cls"), {"embeddings"}),
    (Capabilities(generates=False, pooling="rank"), {"scores"}),
]


@pytest.mark.parametrize("wanted", REQUESTS)
@pytest.mark.parametrize(("capabilities", "served"), MODELS)
def test_a_request_is_refused_with_the_shared_text_where_the_model_never_serves_it(
    capabilities: Capabilities, served: set[Wanted], wanted: Wanted
) -> None:
    if wanted in served:
        capabilities.check(REQUESTS[wanted])
        return
    with pytest.raises(InvalidRequest) as refused:
        capabilities.check(REQUESTS[wanted])
    assert refused.value.public() == wrong_model(wanted, capabilities.pooling).public()


@pytest.mark.parametrize(
    ("wanted", "pooling", "words"),
    [
        ("text", "mean", "writes no text: it is served for embeddings"),
        ("text", "rank", "writes no text: it is served for scores of documents"),
        ("scores", "none", "it is no reranker"),
        ("scores", "mean", "it is no reranker"),
        ("embeddings", "rank", "is a reranker"),
        ("embeddings", "none", "served for text generation, and gives no embeddings"),
    ],
)
def test_the_refusal_says_what_the_model_is_for(wanted: Wanted, pooling: str, words: str) -> None:
    error = wrong_model(wanted, pooling)
    assert words in error.message
    assert (error.code, error.param) == ("invalid_request", "model")


def test_a_suffix_needs_a_model_that_fills_in_the_middle() -> None:
    request = GenerationRequest("r", Sampling(), ("a",), suffix="b")
    Capabilities(infill=True).check(request)
    with pytest.raises(InvalidRequest, match="fill in the middle") as refused:
        Capabilities().check(request)
    assert refused.value.param == "suffix"
