"""The OpenAPI document: valid, whole, and true of the bodies that are taken."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from jsonschema.validators import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.routing import Route

from gguf_worker.api.ollama import OLLAMA_ERRORS
from gguf_worker.api.openapi import body_name, openapi_document
from gguf_worker.api.routes import ROUTES, find_route
from gguf_worker.errors import ERRORS_BY_CODE, InvalidRequest
from tests.api_doors import MESSAGES, Bench
from tests.fakes import ScriptedProvider, text_deltas
from tests.http_door import CHAT, application, client

POST_PATHS = [path for route in ROUTES if "POST" in route.methods for path in route.paths]


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return openapi_document(ROUTES)


def test_it_is_a_valid_document(document: dict[str, Any]) -> None:
    OpenAPIV31SpecValidator(document).validate()
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


async def test_it_is_served_and_has_every_route_that_is_served() -> None:
    app = application(Bench(ScriptedProvider()))
    async with client(app) as http:
        served = (await http.get("/openapi.json")).json()
    there = {(path, method.upper()) for path, item in served["paths"].items() for method in item}
    routes = [route for route in app.routes if isinstance(route, Route)]
    asked = {
        (route.path.replace(":path", ""), method)
        for route in routes
        for method in (route.methods or set()) - {"HEAD"}
    }
    assert there == asked
    assert {(route, "POST") for route in POST_PATHS} <= there


def test_names_of_private_classes_do_not_show(document: dict[str, Any]) -> None:
    assert not [name for name in document["components"]["schemas"] if name.startswith("_")]


def test_a_route_that_streams_says_so(document: dict[str, Any]) -> None:
    events = {CHAT, "/v1/completions", "/v1/responses", "/v1/messages"}
    lines = {"/api/chat", "/api/generate"}
    for route in POST_PATHS:
        content = document["paths"][route]["post"]["responses"]["200"]["content"]
        assert ("text/event-stream" in content) is (route in events)
        assert ("application/x-ndjson" in content) is (route in lines)


def test_errors_have_every_code(document: dict[str, Any]) -> None:
    error = document["components"]["schemas"]["Error"]["properties"]["error"]
    assert set(error["properties"]["code"]["enum"]) == set(ERRORS_BY_CODE)
    for known in ERRORS_BY_CODE.values():
        jsonschema.validate(known("What is wrong.").public(), error)


def test_ollamas_errors_are_texts_with_a_code(document: dict[str, Any]) -> None:
    error = document["components"]["schemas"]["OllamaError"]
    jsonschema.validate(OLLAMA_ERRORS.answer(InvalidRequest("Wrong.", param="a"), "r1"), error)
    assert error["properties"]["error"] == {"type": "string"}


def named_body(path: str) -> str:
    """The name of the body of the route that a path leads to."""
    route = find_route(path)
    assert route is not None
    return body_name(route)


def fits(document: dict[str, Any], route: str, body: dict[str, Any]) -> bool:
    schema = {**document, "$ref": f"#/components/schemas/{named_body(route)}"}
    return bool(Draft202012Validator(schema).is_valid(body))


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"temperature": 0.5, "top_k": None, "stop": "a", "n": 2},
        {"stop": ["a", "b"], "stream": True, "stream_options": {"include_usage": True}},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]},
        {"logit_bias": {"15": 1.5}, "max_completion_tokens": 5},
        {"temperature": 11},
        {"temperature": "1"},
        {"n": 17},
        {"messages": []},
        {"messages": [{"role": "nobody", "content": "Hi"}]},
        {"messages": None},
        {"stop": [1]},
        {"max_completion_tokens": "5"},
    ],
)
async def test_it_and_the_worker_agree_on_a_body(
    document: dict[str, Any], more: dict[str, Any]
) -> None:
    body = {"messages": MESSAGES, **more}
    async with client(application(Bench(ScriptedProvider(text_deltas("a"))))) as http:
        response = await http.post(CHAT, json=body)
    assert response.status_code == (200 if fits(document, CHAT, body) else 400), response.text


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("/v1/responses", {"input": "Hi"}),
        ("/v1/responses", {"input": MESSAGES, "instructions": "Be brief.", "stream": False}),
        ("/v1/responses", {"input": "Hi", "max_output_tokens": 5, "temperature": 0.5}),
        ("/v1/responses", {"input": "Hi", "background": False, "min_p": 0.1}),
        ("/v1/responses", {"input": "Hi", "background": True}),
        ("/v1/responses", {"input": "Hi", "background": 0}),
        ("/v1/responses", {"input": "Hi", "temperature": 11}),
        ("/v1/responses", {"input": []}),
        ("/v1/responses", {"input": [None]}),
        ("/v1/responses", {}),
        ("/v1/messages", {"messages": MESSAGES, "max_tokens": 5, "system": "Be brief."}),
        ("/v1/messages", {"messages": MESSAGES, "max_tokens": 0}),
        ("/v1/messages", {"messages": MESSAGES, "max_tokens": -2}),
        ("/v1/messages/count_tokens", {"messages": MESSAGES, "max_tokens": 0}),
        ("/v1/responses", {"input": "Hi", "truncation": "auto", "tools": [{"type": "x"}]}),
        ("/v1/messages", {"messages": MESSAGES, "max_tokens": 5, "top_k": 4}),
        ("/v1/messages", {"messages": MESSAGES, "max_tokens": 5, "top_k": "4"}),
        ("/v1/messages", {"messages": MESSAGES}),
        ("/v1/messages", {"messages": MESSAGES, "max_tokens": None}),
        ("/v1/messages", {"messages": [None], "max_tokens": 5}),
        ("/api/chat", {"messages": MESSAGES, "format": "json", "think": "low"}),
        ("/api/chat", {"messages": MESSAGES, "format": "xml"}),
        ("/api/chat", {"messages": MESSAGES, "format": {"type": "object"}, "think": False}),
        ("/api/chat", {"messages": MESSAGES, "think": 1}),
        ("/api/chat", {"messages": [None]}),
        ("/api/chat", {}),
        ("/api/chat", {"messages": [], "tools": []}),
        ("/api/generate", {"prompt": "Hi", "options": {"seed": 1}, "keep_alive": "5m"}),
        ("/api/generate", {"prompt": ["Hi"]}),
        ("/api/embed", {"input": ["a", "b"]}),
        ("/api/embed", {"input": [""]}),
        ("/api/embed", {}),
        ("/api/embeddings", {"prompt": ""}),
    ],
)
async def test_it_and_the_worker_agree_on_a_body_that_is_translated(
    document: dict[str, Any], route: str, body: dict[str, Any]
) -> None:
    provider = ScriptedProvider([] if "embed" in route else text_deltas("a"))
    async with client(application(Bench(provider))) as http:
        response = await http.post(route, json=body)
    assert response.status_code == (200 if fits(document, route, body) else 400), response.text


def test_what_another_apis_body_has_no_place_for_is_not_in_it(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert {"n", "messages", "max_tokens"}.isdisjoint(schemas["ResponsesBody"]["properties"])
    assert {"n", "stop", "user"}.isdisjoint(schemas["MessagesBody"]["properties"])
    assert "stream" not in schemas["MessagesCountTokensBody"]["properties"]


@pytest.mark.parametrize(
    ("prompt", "good"),
    [("a", True), (["a", "b"], True), ([1, 2], True), ([[1], "a"], True), ("", False), ([], False)],
)
def test_a_prompt_has_all_of_openais_forms(
    document: dict[str, Any], prompt: Any, good: bool
) -> None:
    assert fits(document, "/v1/completions", {"prompt": prompt}) is good


@pytest.mark.parametrize(
    ("sent", "good"),
    [
        ("a", True), (["a", "b"], True), ([1, 2], True), ([[1], [2, 3]], True), ("", False),
        ([], False), ([""], False), ([[]], False), ([[1], "a"], False), ([1, "a"], False),
        (["a"] * 2049, False), (None, False), ([-1], False), ([True], False),
    ],
)  # fmt: skip
async def test_it_and_the_worker_agree_on_what_is_embedded(
    document: dict[str, Any], sent: Any, good: bool
) -> None:
    assert fits(document, "/v1/embeddings", {"input": sent}) is good
    async with client(application(Bench(ScriptedProvider()))) as http:
        response = await http.post("/v1/embeddings", json={"input": sent})
    assert response.status_code == (200 if good else 400)


@pytest.mark.parametrize(
    ("more", "good"),
    [
        ({}, True),
        ({"documents": [{"text": "a", "id": 1}, "b"], "top_n": 1}, True),
        ({"documents": []}, False),
        ({"documents": [{"title": "a"}]}, False),
        ({"documents": ["a"] * 2049}, False),
        ({"top_n": 0}, False),
        ({"query": ""}, False),
        ({"query": None}, False),
    ],
)
@pytest.mark.parametrize("route", ["/v1/rerank", "/rerank", "/v2/rerank"])
async def test_it_and_the_worker_agree_on_what_is_ranked(
    document: dict[str, Any], route: str, more: dict[str, Any], good: bool
) -> None:
    body = {"query": "a", "documents": ["b"], **more}
    assert fits(document, route, body) is good
    async with client(application(Bench(ScriptedProvider()))) as http:
        response = await http.post(route, json=body)
    assert response.status_code == (200 if good else 400)


@pytest.mark.parametrize("route", POST_PATHS)
async def test_every_route_has_an_example_that_works(document: dict[str, Any], route: str) -> None:
    content = document["paths"][route]["post"]["requestBody"]["content"]
    example = content["application/json"]["example"]
    assert fits(document, route, example)
    provider = ScriptedProvider([] if "rerank" in route or "embed" in route else text_deltas("a"))
    async with client(application(Bench(provider))) as http:
        assert (await http.post(route, json=example)).status_code == 200


def test_a_body_has_a_name_of_its_own() -> None:
    assert named_body("/v1/chat/completions") == "ChatCompletionsBody"
    assert named_body("/v1/messages/count_tokens") == "MessagesCountTokensBody"
    assert named_body("/tokenize") == "TokenizeBody"
    assert named_body("/v2/rerank") == named_body("/v1/rerank") == "RerankBody"


def test_operations_have_names_of_their_own(document: dict[str, Any]) -> None:
    names = [each["operationId"] for item in document["paths"].values() for each in item.values()]
    assert len(set(names)) == len(names)
