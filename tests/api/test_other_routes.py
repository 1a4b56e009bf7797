"""The routes of other APIs through the one gateway: OpenAI's responses, Anthropic's messages."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from anthropic.types import Message
from openai.types.responses import Response
from pydantic import BaseModel

from gguf_worker.api import answer_job
from gguf_worker.api.http import build_http
from gguf_worker.api.writing import Body, Failed
from gguf_worker.errors import ContextLengthExceeded, InvalidRequest, Overloaded
from gguf_worker.providers import TextDelta
from tests.api_doors import Bench, call, sse
from tests.fakes import ScriptedProvider, Step, text_deltas

BODIES: dict[str, dict[str, Any]] = {
    "/v1/responses": {"input": "Hi"},
    "/v1/messages": {"max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]},
}
OBJECTS: dict[str, type[BaseModel]] = {"/v1/responses": Response, "/v1/messages": Message}
LAST = {"/v1/responses": "response.completed", "/v1/messages": "message_stop"}
SOURCE = {"/v1/responses": "input", "/v1/messages": "messages"}

ROUTE = pytest.mark.parametrize("route", list(BODIES))


def bench(*script: Step | list[Step]) -> Bench:
    return Bench(ScriptedProvider(*script or (text_deltas("Mer", "haba"),)))


@ROUTE
async def test_a_whole_answer(route: str) -> None:
    (reply,) = await bench().ask(call(route, BODIES[route]))
    assert isinstance(reply, Body)
    assert "Merhaba" in OBJECTS[route].model_validate_json(json.dumps(reply.data)).model_dump_json()


@ROUTE
async def test_a_stream_is_the_same_in_the_queue_and_over_http(route: str) -> None:
    body = {**BODIES[route], "stream": True}
    given = {"openai_route": route, "openai_input": body}
    job = answer_job(bench().gateway, {"id": "j", "input": given}, default_timeout=60)
    queued = "".join([item async for item in job])
    app = build_http(bench().gateway, state=lambda: "ready", default_timeout=60)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://worker") as client:
        served = (await client.post(route, json=body)).text
    for text in (queued, served):
        assert text.count(f"event: {LAST[route]}\n") == 1
        assert text.rpartition("event: ")[2].startswith(LAST[route])
    assert queued.count("event: ") == served.count("event: ")


@ROUTE
async def test_a_late_failure_ends_the_stream_in_the_callers_words(route: str) -> None:
    error = ContextLengthExceeded("`messages` are too long.", param="messages")
    body = {**BODIES[route], "stream": True}
    *_, last = await bench(TextDelta("a", 1), error).ask(call(route, body))
    assert isinstance(last, Failed)
    assert last.error.param == SOURCE[route]
    assert f"`{SOURCE[route]}` are too long." in str(last.event)
    assert str(last.event).startswith(("event: response.failed\n", "event: error\n"))


@ROUTE
async def test_a_failure_before_the_first_word_is_one_event(route: str) -> None:
    body = {**BODIES[route], "stream": True}
    for bad, error in ((body, Overloaded("Busy.")), ({**body, "temperature": "x"}, None)):
        worker = Bench(error) if error else bench()
        replies = await worker.ask(call(route, bad))
        (last,) = replies
        assert isinstance(last, Failed)
        assert str(last.event).startswith("event: error\n")
        assert sse(replies) == ""


@ROUTE
async def test_the_failure_of_a_whole_answer_has_the_one_shape(route: str) -> None:
    app = build_http(bench().gateway, state=lambda: "ready", default_timeout=60)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://worker") as client:
        answer = await client.post(route, json={**BODIES[route], "temperature": "x"})
    assert answer.status_code == 400
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


async def test_a_grammar_goes_by_the_callers_name() -> None:
    format = {"type": "json_schema", "name": "x", "schema": {"type": "object"}}
    body = {"input": "Hi", "text": {"format": format}}
    (reply,) = await bench(InvalidRequest("No.", param="grammar")).ask(call("/v1/responses", body))
    assert isinstance(reply, Failed)
    assert reply.error.param == "text.format"


async def test_tokens_are_counted_without_an_answer() -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}]}
    worker = bench()
    (reply,) = await worker.ask(call("/v1/messages/count_tokens", body))
    assert isinstance(reply, Body)
    assert set(reply.data) == {"input_tokens"}
    assert worker.done.outcome == "stop"
