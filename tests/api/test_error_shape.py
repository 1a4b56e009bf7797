"""The one error shape: OpenAI's four fields, on every route and in every mode."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from gguf_worker.api import answer_job
from gguf_worker.api.http import build_http
from gguf_worker.api.http.bodies import Bodies
from gguf_worker.errors import ERRORS_BY_CODE, WorkerError
from gguf_worker.providers import TextDelta
from tests.api_doors import MESSAGES, Bench
from tests.fakes import ScriptedProvider

FIELDS = {"message", "type", "param", "code"}

BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/completions": {"prompt": "Hi"},
}

ERRORS = [pytest.param(error, id=code) for code, error in ERRORS_BY_CODE.items()]
STREAM = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
ROUTE = pytest.mark.parametrize("route", list(BODIES))


def failing(error: type[WorkerError]) -> tuple[Bench, WorkerError]:
    instance = error("What is wrong, and what to do.")
    return Bench(ScriptedProvider(instance)), instance


def check(data: Any, error: WorkerError) -> None:
    assert set(data) == FIELDS
    assert data == error.public()
    assert data["code"] == error.code
    assert data["message"]
    assert "Traceback" not in data["message"]


def front(bench: Bench) -> Starlette:
    return build_http(bench.gateway, state=lambda: "ready", default_timeout=60)


async def post(app: Starlette, route: str, body: Any) -> httpx.Response:
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://worker") as client:
        return await client.post(route, json=body)


async def items_of(bench: Bench, given: dict[str, Any]) -> list[Any]:
    items = answer_job(bench.gateway, {"id": "j", "input": given}, default_timeout=60)
    return [item async for item in items]


@STREAM
@pytest.mark.parametrize("error", ERRORS)
async def test_a_native_job(error: type[WorkerError], stream: bool) -> None:
    bench, instance = failing(error)
    *shown, item = await items_of(bench, {"prompt": "Hi", "stream": stream})
    assert shown == ([{"finish_reason": "error", "failure": instance.public()}] if stream else [])
    assert set(item) == {"error"}
    assert isinstance(item["error"], str)
    check(json.loads(item["error"]), instance)


@STREAM
@ROUTE
@pytest.mark.parametrize("error", ERRORS)
async def test_an_openai_job(error: type[WorkerError], route: str, stream: bool) -> None:
    bench, instance = failing(error)
    body = {**BODIES[route], "stream": stream}
    *events, item = await items_of(bench, {"openai_route": route, "openai_input": body})
    check(json.loads(item["error"]), instance)
    assert len(events) == (1 if stream else 0)
    for event in events:
        assert event.startswith("data: ")
        assert event.endswith("\n\n")
        check(json.loads(event.removeprefix("data: "))["error"], instance)


@STREAM
@ROUTE
@pytest.mark.parametrize("error", ERRORS)
async def test_http_before_the_first_byte(
    error: type[WorkerError], route: str, stream: bool
) -> None:
    bench, instance = failing(error)
    response = await post(front(bench), route, {**BODIES[route], "stream": stream})
    assert response.status_code == error.status
    assert response.headers["content-type"] == "application/json"
    assert ("retry-after" in response.headers) == error.retryable
    assert set(response.json()) == {"error"}
    check(response.json()["error"], instance)


@ROUTE
@pytest.mark.parametrize("error", ERRORS)
async def test_http_after_the_first_byte(error: type[WorkerError], route: str) -> None:
    bench, instance = failing(error)
    bench.provider.script.insert(0, TextDelta("a", 1))
    response = await post(front(bench), route, {**BODIES[route], "stream": True})
    assert response.status_code == 200
    *_, last, nothing = response.text.split("\n\n")
    assert nothing == ""
    check(json.loads(last.removeprefix("data: "))["error"], instance)


@pytest.mark.parametrize(
    ("method", "path", "content", "status", "code"),
    [
        ("POST", "/v1/chat/completions", b"{}", 400, "invalid_request"),
        ("POST", "/v1/chat/completions", b"", 400, "invalid_request"),
        ("POST", "/v1/chat/completions", b"[]", 400, "invalid_request"),
        ("POST", "/v1/completions", b'{"prompt": NaN}', 400, "invalid_request"),
        ("POST", "/v1/completions", b"x" * 2000, 413, "payload_too_large"),
        ("GET", "/v1/models/other", b"", 404, "model_not_found"),
        ("GET", "/v1/nothing", b"", 404, "unknown_route"),
        ("POST", "/", b"", 405, "unknown_route"),
        ("GET", "/v1/completions", b"", 405, "unknown_route"),
        ("DELETE", "/v1/models/demo", b"", 405, "unknown_route"),
    ],
)
async def test_http_refusals(
    method: str, path: str, content: bytes, status: int, code: str
) -> None:
    bench = Bench(ScriptedProvider())
    app = build_http(
        bench.gateway, state=lambda: "ready", default_timeout=60, bodies=Bodies(most=1000)
    )
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://worker") as client:
        response = await client.request(method, path, content=content)
    assert response.status_code == status
    error = response.json()["error"]
    assert set(error) == FIELDS
    assert error["code"] == code
