"""The registry: each path leads to one route, whose facts all others read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from gguf_worker.api import routes
from gguf_worker.api.openai import chat_writer, read_chat
from gguf_worker.api.openapi import openapi_document
from gguf_worker.api.reading import CommonFields, GenerationCall
from gguf_worker.api.routes import (
    ERROR_SHAPES,
    ROUTES,
    SERVED_PATHS,
    BodyDocument,
    GenerationAnswerer,
    ObjectAnswerer,
    Route,
    error_shape,
    find_route,
    no_route,
    plain_path,
)
from gguf_worker.api.tokens import DetokenizeCall, read_detokenize
from gguf_worker.api.writing import Body
from gguf_worker.providers import ModelCard
from tests.api_doors import Bench, call
from tests.fakes import ScriptedProvider, text_deltas


def test_no_path_leads_to_two_routes() -> None:
    paths = [path for route in ROUTES for path in route.paths]
    assert len(set(paths)) == len(paths)


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("/v1/chat/completions", "/v1/chat/completions"),
        ("/rerank", "/v1/rerank"),
        ("/v2/rerank", "/v1/rerank"),
        ("/v1/models", "/v1/models"),
        ("/v1/models/org/name", "/v1/models"),
        ("generate", "generate"),
        ("health", "health"),
        ("metrics", "metrics"),
        ("/v1/modelsx", "unknown"),
        ("/v1/chat/completions/", "unknown"),
        ("", "unknown"),
    ],
)
def test_a_calls_label_is_its_routes_first_path(path: str, label: str) -> None:
    assert call(path).label == label


def test_an_unknown_path_is_told_the_paths_that_are_served_over_http() -> None:
    message = no_route("/x").message
    assert all(path in message for path in SERVED_PATHS)
    assert "health" not in message
    assert SERVED_PATHS[-1] == "/v1/models"


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("/v1/models", "/v1/models"),
        ("/", "/"),
        ("//", "/"),
        ("", "/"),
        ("//v1///messages/", "/v1/messages"),
        ("/v1/models/https://a.test/x.gguf", "/v1/models/https://a.test/x.gguf"),
        ("/v1/models/org//x/", "/v1/models/org//x"),
        ("generate", "generate"),
    ],
)
def test_a_path_has_no_slashes_too_many(given: str, path: str) -> None:
    assert plain_path(given) == path
    assert plain_path(path) == path


def test_only_a_route_that_generates_streams() -> None:
    streaming = {route.path for route in ROUTES if call(route.path, {"stream": True}).stream}
    assert streaming == {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
        "/api/chat",
        "/api/generate",
        "generate",
    }


def test_ollamas_routes_stream_unless_the_caller_wants_the_whole() -> None:
    for stream, expected in ((None, True), (True, True), (False, False)):
        assert call("/api/chat", {"stream": stream}).stream is expected
        assert call("/v1/chat/completions", {"stream": stream}).stream is (stream is True)
    assert call("/api/generate").stream
    assert not call("/api/pull").stream


def test_every_path_below_api_has_errors_as_ollama_writes_them() -> None:
    for path in ("/api/chat", "/api/tags", "/api/delete", "/api/nothing"):
        assert error_shape(path).name == "OllamaError"
    for path in ("/v1/chat/completions", "/v1/nothing", "/apis", ""):
        assert error_shape(path).name == "Error"


def test_every_route_that_takes_a_body_over_http_is_documented() -> None:
    for route in ROUTES:
        assert ("POST" in route.methods) == (route.document is not None)


def test_one_shape_of_errors_has_one_schema() -> None:
    assert set(ERROR_SHAPES) == {"Error", "AnthropicError", "OllamaError"}
    route = find_route("/v1/messages")
    assert route is not None
    assert ERROR_SHAPES["AnthropicError"] is route.errors


def read_shout(body: Mapping[str, Any], *, id: str, deadline: float | None) -> GenerationCall:
    """Read the body of a route that nobody has: a text, which becomes a chat."""
    return read_chat(
        {"messages": [{"role": "user", "content": body["text"].upper()}]}, id=id, deadline=deadline
    )


async def test_a_new_route_is_one_record_beside_its_reader_and_writer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    route = Route(
        "/shout",
        GenerationAnswerer(read_shout, chat_writer),
        document=BodyDocument((CommonFields,), example={"text": "Hi"}),
    )
    monkeypatch.setitem(routes._BY_PATH, route.path, route)
    bench = Bench(ScriptedProvider(text_deltas("He", "y")))
    (reply,) = await bench.ask(call("/shout", {"text": "hi"}))
    assert isinstance(reply, Body)
    assert reply.data["choices"][0]["message"]["content"] == "Hey"
    assert bench.provider.requests[0].messages == ({"role": "user", "content": "HI"},)
    assert bench.done.route == "/shout"
    assert openapi_document((route,))["paths"]["/shout"]["post"]["operationId"] == "Shout"


async def test_a_route_for_vectors_is_one_record_too(monkeypatch: pytest.MonkeyPatch) -> None:
    async def write_length(text: str, asked: DetokenizeCall, card: ModelCard) -> dict[str, Any]:
        return {"model": card.name, "length": len(text)}

    route = Route(
        "/length",
        ObjectAnswerer(
            read_detokenize, lambda provider, asked: provider.text(asked.tokens), write_length
        ),
    )
    monkeypatch.setitem(routes._BY_PATH, route.path, route)
    (reply,) = await Bench(ScriptedProvider()).ask(call("/length", {"tokens": [72, 105]}))
    assert isinstance(reply, Body)
    assert reply.data == {"model": "demo", "length": 2}
