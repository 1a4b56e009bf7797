"""/api/embed and /api/embeddings: bodies, vectors and refusals."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from gguf_worker.api.writing import Body, Failed
from tests.api_doors import Bench, call
from tests.fakes import ScriptedProvider, vector


async def ask(route: str, **body: Any) -> Any:
    (reply,) = await Bench(ScriptedProvider()).ask(call(route, body))
    return reply


def close(one: Any, other: list[float]) -> bool:
    sent: list[float] = json.loads(msgspec.json.encode(one))
    return bool(sent == pytest.approx(other))


@pytest.mark.parametrize(("sent", "lengths"), [("Hello", [5]), (["Hello", "Hi"], [5, 2])])
async def test_each_input_has_a_vector(sent: Any, lengths: list[int]) -> None:
    reply = await ask("/api/embed", model="demo:latest", input=sent, keep_alive="5m")
    assert isinstance(reply, Body)
    assert reply.data["model"] == "demo"
    assert reply.data["prompt_eval_count"] == sum(lengths)
    vectors = reply.data["embeddings"]
    assert len(vectors) == len(lengths)
    assert all(close(each, vector(length)) for each, length in zip(vectors, lengths, strict=True))


async def test_vectors_may_be_cut() -> None:
    reply = await ask("/api/embed", input="Hello", dimensions=2, truncate=True)
    assert isinstance(reply, Body)
    assert close(reply.data["embeddings"][0], vector(5)[:2])
    assert "warnings" not in reply.data


async def test_the_older_form_has_one_vector() -> None:
    reply = await ask("/api/embeddings", model="demo", prompt="Hello", options={"num_ctx": 1})
    assert isinstance(reply, Body)
    assert close(reply.data["embedding"], vector(5))


@pytest.mark.parametrize(
    ("route", "body", "param"),
    [
        ("/api/embed", {}, "input"),
        ("/api/embed", {"input": None}, "input"),
        ("/api/embed", {"input": ""}, "input"),
        ("/api/embed", {"input": []}, "input"),
        ("/api/embed", {"input": ["a", ""]}, "input[1]"),
        ("/api/embed", {"input": {"a": 1}}, "input"),
        ("/api/embed", {"input": "a", "dimensions": 0}, "dimensions"),
        ("/api/embed", {"input": "a", "truncate": "yes"}, "truncate"),
        ("/api/embed", {"input": "a", "options": 1}, "options"),
        ("/api/embeddings", {}, "prompt"),
        ("/api/embeddings", {"prompt": ""}, "prompt"),
        ("/api/embeddings", {"prompt": ["a"]}, "prompt"),
    ],
)
async def test_a_wrong_field_is_named(route: str, body: dict[str, Any], param: str) -> None:
    reply = await ask(route, **body)
    assert isinstance(reply, Failed)
    assert reply.error.param == param
    assert f"`{param}`" in reply.error.message
