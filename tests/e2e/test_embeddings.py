"""Vectors of the demo model, for which pooling is configured, by the official `openai` client."""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.e2e.asks import token_ids
from tests.http_worker import Served, http_worker

pytestmark = pytest.mark.e2e

WIDTH = 576
TEXTS = (
    "The cat sleeps on the warm sofa.",
    "A kitten naps on the couch.",
    "Interest rates rose by half a point.",
)


@pytest.fixture(scope="module")
def embedder(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    log = tmp_path_factory.mktemp("embedder") / "log"
    settings = {"POOLING": "mean", "SERVED_MODEL_NAME": "demo", "CTX_SIZE": "1024"}
    with http_worker(demo_model, log, **settings) as served:
        yield served


@pytest.fixture
def client(embedder: Served) -> Iterator[openai.OpenAI]:
    with embedder.client() as client:
        yield client


def embed(client: openai.OpenAI, input: Any, **more: Any) -> Any:
    answer = client.embeddings.create(model="demo", input=input, **more)
    if more.get("encoding_format") != "base64":  # the client has no type for it
        type(answer).model_validate_json(answer.to_json(), strict=True)
    return answer


def vectors(answer: Any) -> list[list[float]]:
    assert [each.index for each in answer.data] == list(range(len(answer.data)))
    return [each.embedding for each in answer.data]


def likeness(one: list[float], other: list[float]) -> float:
    """Return the cosine of two vectors: 1 where they have one direction."""
    product = sum(a * b for a, b in zip(one, other, strict=True))
    return product / (math.hypot(*one) * math.hypot(*other))


def test_a_text_is_a_vector_of_length_one(client: openai.OpenAI) -> None:
    answer = embed(client, TEXTS[0])
    (vector,) = vectors(answer)
    assert len(vector) == WIDTH
    assert math.hypot(*vector) == pytest.approx(1, abs=1e-5)
    assert answer.model == "demo"
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 0


def test_a_vector_is_the_same_as_numbers_and_in_base64(client: openai.OpenAI) -> None:
    (usual,) = vectors(embed(client, TEXTS[0]))
    (written,) = vectors(embed(client, TEXTS[0], encoding_format="float"))
    (coded,) = embed(client, TEXTS[0], encoding_format="base64").data
    assert list(struct.unpack(f"<{WIDTH}f", base64.b64decode(coded.embedding))) == pytest.approx(
        usual, abs=1e-7
    )
    assert written == pytest.approx(usual, abs=1e-6)


def test_a_vector_is_cut_to_the_dimensions_and_is_of_length_one_again(
    client: openai.OpenAI,
) -> None:
    (whole,) = vectors(embed(client, TEXTS[0]))
    (cut,) = vectors(embed(client, TEXTS[0], dimensions=64))
    assert len(cut) == 64
    assert math.hypot(*cut) == pytest.approx(1, abs=1e-5)
    assert likeness(cut, whole[:64]) == pytest.approx(1, abs=1e-4)


def test_the_vectors_of_a_batch_are_those_of_its_texts(client: openai.OpenAI) -> None:
    alone = [vectors(embed(client, text))[0] for text in TEXTS]
    answer = embed(client, list(TEXTS))
    for one, other in zip(vectors(answer), alone, strict=True):
        assert likeness(one, other) > 0.999
    assert answer.usage.prompt_tokens == sum(
        embed(client, text).usage.prompt_tokens for text in TEXTS
    )


def test_token_ids_have_the_vector_of_their_text(embedder: Served, client: openai.OpenAI) -> None:
    (alone,) = vectors(embed(client, TEXTS[0]))
    ids = [token_ids(embedder, text) for text in TEXTS[:2]]
    (one,) = vectors(embed(client, ids[0]))
    first, _ = vectors(embed(client, ids))
    assert min(likeness(one, alone), likeness(first, alone)) > 0.999


def test_texts_of_one_meaning_are_more_alike_than_others(client: openai.OpenAI) -> None:
    cat, kitten, money = vectors(embed(client, list(TEXTS)))
    assert likeness(cat, kitten) > max(likeness(cat, money), likeness(kitten, money))


def test_the_vectors_are_those_of_llama_cpp_python(demo_model: Path, client: openai.OpenAI) -> None:
    import llama_cpp

    reference = llama_cpp.Llama(
        str(demo_model), embedding=True, n_ctx=512, verbose=False,
        pooling_type=llama_cpp.LLAMA_POOLING_TYPE_MEAN, n_threads=1, n_threads_batch=1,
    )  # fmt: skip
    try:
        wanted: Any = [reference.embed(text, normalize=True) for text in TEXTS]
    finally:
        reference.close()
    for ours, theirs in zip(vectors(embed(client, list(TEXTS))), wanted, strict=True):
        assert likeness(ours, theirs) > 0.999


def test_the_same_model_goes_on_writing_text_meanwhile(client: openai.OpenAI) -> None:
    stream = client.completions.create(
        model="demo", prompt="1, 2, 3, 4,", temperature=0, max_tokens=32, stream=True
    )
    text = next(stream).choices[0].text
    assert len(vectors(embed(client, list(TEXTS) * 4))) == 12
    text += "".join(chunk.choices[0].text for chunk in stream)
    assert text.startswith(" 5, 6, 7, 8")


@pytest.mark.parametrize(
    ("ask", "code", "param"),
    [
        ({"input": ["fits", "word " * 1100]}, "context_length_exceeded", "input"),
        ({"input": ""}, "invalid_request", "input"),
        ({"input": ["a", ""]}, "invalid_request", "input[1]"),
        ({"input": []}, "invalid_request", "input"),
        ({"input": [1, 10_000_000]}, "invalid_request", "input"),
        ({"input": "a", "dimensions": WIDTH + 1}, "invalid_request", "dimensions"),
        ({"input": "a", "encoding_format": "int8"}, "invalid_request", "encoding_format"),
    ],
    ids=["long", "empty", "one empty", "none", "no token", "dimensions", "format"],
)
def test_an_input_without_a_vector_is_a_bad_request(
    client: openai.OpenAI, ask: Any, code: str, param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.embeddings.create(model="demo", **ask)
    assert (refused.value.code, refused.value.param) == (code, param)


def test_another_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="text-embedding-3-small", input="a")


def test_a_chat_model_without_pooling_names_the_setting(served: Served) -> None:
    with served.client() as client, pytest.raises(openai.BadRequestError, match="POOLING") as error:
        client.embeddings.create(model="demo", input="a")
    assert (error.value.code, error.value.param) == ("invalid_request", "model")
