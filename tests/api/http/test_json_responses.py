"""Errors over HTTP in the shape that each client reads, and the models in that of both."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anthropic
import openai
import pytest
from anthropic import Anthropic
from anthropic.pagination import SyncPage
from anthropic.types import ModelInfo
from anthropic.types.shared import ErrorResponse

from gguf_worker.api.http.bodies import Bodies
from gguf_worker.errors import ERRORS_BY_CODE, Overloaded, WorkerError
from tests.api_doors import MESSAGES, Bench
from tests.fakes import ScriptedProvider, text_deltas
from tests.http_door import application, client, served

ROUTE = "/v1/messages"
BODY = {"messages": MESSAGES, "max_tokens": 5}
VERSION = {"anthropic-version": "2023-06-01"}


@contextmanager
def claude(bench: Bench, key: str = "sesame", **more: Any) -> Iterator[Anthropic]:
    app = application(bench, api_keys=["sesame"], **more)
    with (
        served(app) as port,
        Anthropic(base_url=f"http://127.0.0.1:{port}", api_key=key, max_retries=0) as api,
    ):
        yield api


def say(api: Anthropic, **more: Any) -> Any:
    asked: Any = {"model": "demo", "messages": MESSAGES, "max_tokens": 5, **more}
    return api.messages.create(**asked)


@pytest.mark.parametrize(
    ("ask", "key", "kind", "status", "type", "says"),
    [
        (say, "wrong", anthropic.AuthenticationError, 401, "authentication_error", "API key"),
        (lambda api: say(api, model="other"), "sesame", anthropic.NotFoundError, 404,
         "not_found_error", "serves 'demo'"),
        (lambda api: say(api, stop_sequences=["x" * 257]), "sesame", anthropic.BadRequestError, 400,
         "invalid_request_error", "`stop_sequences[0]`"),
        (lambda api: say(api, system="x" * 5000), "sesame", anthropic.APIStatusError, 413,
         "invalid_request_error", "larger than 4000"),
        (lambda api: api.messages.count_tokens(model="other", messages=[]), "sesame",
         anthropic.BadRequestError, 400, "invalid_request_error", "`messages`"),
        (lambda api: api.models.retrieve("other"), "sesame", anthropic.NotFoundError, 404,
         "not_found_error", "serves 'demo'"),
        (lambda api: api.get("/v1/nothing", cast_to=object), "sesame", anthropic.NotFoundError, 404,
         "not_found_error", "no route"),
        (lambda api: api.post("/v1/models", cast_to=object), "sesame", anthropic.APIStatusError,
         405, "not_found_error", "is not served by POST"),
    ],
)  # fmt: skip
def test_the_anthropic_client_raises_what_it_means_with_our_words(
    ask: Callable[[Anthropic], Any],
    key: str,
    kind: type[Exception],
    status: int,
    type: str,
    says: str,
) -> None:
    bench = Bench(ScriptedProvider(text_deltas("a")))
    with claude(bench, key, bodies=Bodies(most=4000)) as api, pytest.raises(kind) as caught:
        ask(api)
    error: Any = caught.value
    assert (error.type, error.status_code) == (type, status)
    assert says in error.api_message
    assert error.request_id == error.response.headers["x-request-id"] == error.body["request_id"]


@pytest.mark.parametrize("stream", [False, True])
def test_what_may_pass_is_an_overload(stream: bool) -> None:
    bench = Bench(Overloaded("Busy.", retry_after=7))
    with claude(bench) as api, pytest.raises(anthropic.InternalServerError, match="Busy") as caught:
        say(api, stream=stream)
    assert caught.value.type == "overloaded_error"
    assert caught.value.response.headers["retry-after"] == "7"


@pytest.mark.parametrize("error", [*ERRORS_BY_CODE.values()])
@pytest.mark.parametrize("route", [ROUTE, "/v1/messages/count_tokens"])
async def test_every_error_has_the_one_shape_inside_of_anthropics(
    error: type[WorkerError], route: str
) -> None:
    failure = error("What is wrong.")
    async with client(application(Bench(failure))) as http:
        response = await http.post(route, json=BODY, headers={"x-request-id": "trace-7"})
    data = response.json()
    assert response.status_code == error.status
    assert ErrorResponse.model_validate_json(json.dumps(data), strict=True).request_id == "trace-7"
    assert data["error"] == {**failure.public(), "type": data["error"]["type"]}
    assert response.headers["request-id"] == "trace-7"


@pytest.mark.parametrize(
    ("headers", "keys"), [(VERSION, {"type", "error", "request_id"}), ({}, {"error"})]
)
async def test_elsewhere_the_clients_header_decides_the_shape_of_errors(
    headers: dict[str, str], keys: set[str]
) -> None:
    async with client(application(Bench(ScriptedProvider()))) as http:
        for path in ("/v1/models/other", "/nothing"):
            assert set((await http.get(path, headers=headers)).json()) == keys


def test_both_clients_list_the_model() -> None:
    bench = Bench(ScriptedProvider())
    with claude(bench) as api:
        page = api.models.list()
        assert [(each.id, each.display_name) for each in page] == [("demo", "demo")]
        assert not page.has_next_page()
        found = api.models.retrieve("demo")
        base = str(api.base_url)
        with openai.OpenAI(base_url=f"{base}/v1", api_key="sesame", max_retries=0) as other:
            assert [model.created for model in other.models.list()] == [1_700_000_000]
    assert found.created_at.timestamp() == 1_700_000_000
    assert (found.type, found.lifecycle, found.max_input_tokens) == ("model", "active", 2048)


async def test_the_list_of_models_is_strictly_what_anthropics_client_expects() -> None:
    async with client(application(Bench(ScriptedProvider()))) as http:
        text = (await http.get("/v1/models")).text
    page = SyncPage[ModelInfo].model_validate_json(text, strict=True)
    assert (page.has_more, page.first_id, page.last_id) == (False, "demo", "demo")


@pytest.mark.parametrize(
    ("key", "method", "path", "body", "status", "code"),
    [
        ("wrong", "GET", "/api/tags", None, 401, "invalid_api_key"),
        ("sesame", "GET", "/api/nothing", None, 404, "unknown_route"),
        ("sesame", "DELETE", "/api/delete", {"model": "demo"}, 404, "unknown_route"),
        ("sesame", "GET", "/api/chat", None, 405, "unknown_route"),
        ("sesame", "POST", "/api/chat", {"model": "other"}, 404, "model_not_found"),
        ("sesame", "POST", "/api/chat", {"messages": 1}, 400, "invalid_request"),
        ("sesame", "POST", "/api/generate", {"context": [1]}, 400, "invalid_request"),
        ("sesame", "POST", "/api/embed", {"input": ""}, 400, "invalid_request"),
    ],
)
async def test_an_error_of_ollamas_routes_is_a_text(
    key: str, method: str, path: str, body: dict[str, Any] | None, status: int, code: str
) -> None:
    app = application(Bench(ScriptedProvider()), api_keys=["sesame"])
    async with client(app, headers={"authorization": f"Bearer {key}"}) as http:
        response = await http.request(method, path, json=body)
    assert response.status_code == status
    told = response.json()
    assert set(told) == {"error", "type", "param", "code"}
    assert isinstance(told["error"], str)
    assert told["code"] == code
