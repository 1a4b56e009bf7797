"""The doors of the worker, HTTP and the queue: the same calls give the same objects.

Each object is checked strictly against its type in the official client.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
from anthropic.types import Message, MessageTokensCount
from openai.types import Completion, CreateEmbeddingResponse, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response
from pydantic import BaseModel

from tests.e2e.asks import (
    ANY_TOOL,
    CHAT_FORMAT,
    CHAT_TOOL,
    COUNTING,
    GREEDY,
    MESSAGES_TOOL,
    PERSON,
    QUESTION,
    RESPONSES_FORMAT,
    RESPONSES_TOOL,
    SETTINGS,
    WEATHER,
    checkable,
    post,
)
from tests.fake_runpod import FakeRunPod, Worker
from tests.http_worker import KEY, Served, http_worker

pytestmark = pytest.mark.e2e

BOTH = {**SETTINGS, "POOLING": "mean"}
CHAT = "/v1/chat/completions"
ASKED: dict[str, Any] = {"messages": [QUESTION], **GREEDY}
CALLING: dict[str, Any] = {
    "messages": [QUESTION], "tools": [CHAT_TOOL], "tool_choice": "required",
    "parallel_tool_calls": False, "temperature": 0, "max_tokens": 200,
}  # fmt: skip
PARTS = [{"type": "text", "text": "How many days"}, {"type": "text", "text": "are in a week?"}]
RESPONSE: dict[str, Any] = {"input": "Hello!", "temperature": 0, "max_output_tokens": 200}

CHATS: dict[str, dict[str, Any]] = {
    "plain": ASKED,
    "answers": {**ASKED, "n": 2, "temperature": 1.5, "seed": 1},
    "logprobs": {**ASKED, "logprobs": True, "top_logprobs": 3, "max_completion_tokens": 16},
    "stop": {**ASKED, "stop": ["never", " days"]},
    "samplers": {
        **ASKED, "temperature": 1.2, "seed": 7, "min_p": 0.1, "top_k": 20, "top_p": 0.9,
        "frequency_penalty": 0.5, "presence_penalty": 0.5, "logit_bias": {"30": 5},
    },
    "parts": {**ASKED, "messages": [{"role": "user", "content": PARTS}]},
    "template": {
        **ASKED, "reasoning_effort": "low", "chat_template_kwargs": {"enable_thinking": False}
    },
    "call": CALLING,
    "call or document": {**CALLING, "tool_choice": "auto", "response_format": CHAT_FORMAT},
    "schema": {**ASKED, "response_format": CHAT_FORMAT, "max_tokens": 200},
    "object": {**ASKED, "response_format": {"type": "json_object"}, "max_tokens": 40},
    "regex": {**ASKED, "guided_regex": "[0-9]{3}-[a-f]{2}"},
}  # fmt: skip
COMPLETIONS: dict[str, dict[str, Any]] = {
    "plain": {"prompt": COUNTING, "logprobs": 2, **GREEDY},
    "prompts": {"prompt": [COUNTING, "a, b, c,"], "echo": True, **GREEDY},
    "ids": {"prompt": [33, 28, 216, 34, 28], "stop": [" 7"], **GREEDY},
    "grammar": {"prompt": "Code: ", "grammar": 'root ::= "x" [0-9] [0-9]', **GREEDY},
}
OTHERS: list[tuple[str, dict[str, Any], type[BaseModel] | None]] = [
    ("/v1/responses", {**RESPONSE, "text": RESPONSES_FORMAT}, Response),
    (
        "/v1/responses",
        {**RESPONSE, "tools": [RESPONSES_TOOL], "tool_choice": "required",
         "parallel_tool_calls": False},
        Response,
    ),
    (
        "/v1/messages",
        {"messages": [QUESTION], "tools": [MESSAGES_TOOL], "tool_choice": ANY_TOOL,
         "temperature": 0, "max_tokens": 200},
        Message,
    ),
    ("/v1/messages/count_tokens", {"messages": [QUESTION]}, MessageTokensCount),
    ("/v1/embeddings", {"input": ["a cat", "a dog"], "dimensions": 8}, CreateEmbeddingResponse),
    ("/v1/embeddings", {"input": [1, 2, 3], "encoding_format": "base64"}, None),
    ("/v1/models/demo", {}, Model),
    ("/v1/models", {}, None),
    ("/tokenize", {"prompt": COUNTING}, None),
    ("/detokenize", {"tokens": [1, 2, 3]}, None),
]  # fmt: skip
CALLS: list[tuple[str, dict[str, Any], type[BaseModel] | None]] = [
    *((CHAT, body, ChatCompletion) for body in CHATS.values()),
    *(("/v1/completions", body, Completion) for body in COMPLETIONS.values()),
    *OTHERS,
]

UNFIT = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"not": {}}}}
REFUSED: list[tuple[str, dict[str, Any]]] = [
    (CHAT, {**ASKED, "model": "another"}),
    (CHAT, {**ASKED, "temperature": -3}),
    (CHAT, {**ASKED, "messages": [{"role": "user", "content": "word " * 10_000}]}),
    (CHAT, {**ASKED, "response_format": UNFIT}),
    (CHAT, {**CALLING, "tool_choice": {"type": "function", "function": {"name": "other"}}}),
    ("/v1/completions", {"prompt": "def f(", "suffix": "return 1"}),
    ("/v1/completions", {"prompt": [1, 10_000_000]}),
    ("/v1/responses", {"input": "Hi", "previous_response_id": "resp_1"}),
    ("/v1/embeddings", {"input": ["", "a"]}),
    ("/v1/embeddings", {"input": "a", "dimensions": 577}),
    ("/v1/rerank", {"query": "a", "documents": ["b"]}),
    ("/v1/models/another", {}),
    ("/v1/nothing", {}),
    ("/detokenize", {"tokens": [-1]}),
]

OWN = frozenset({"id", "call_id", "created", "created_at", "completed_at", "metrics"})
"""Fields in which two answers to one request may differ."""


def shared(value: Any) -> Any:
    """Return an answer without the fields in which two answers may differ."""
    if isinstance(value, dict):
        return {name: shared(each) for name, each in value.items() if name not in OWN}
    return [shared(each) for each in value] if isinstance(value, list) else value


def over_http(served: Served, route: str, body: Mapping[str, Any]) -> httpx.Response:
    if route.startswith("/v1/models"):
        return httpx.get(served.base + route, headers={"Authorization": f"Bearer {KEY}"})
    return post(served, route, dict(body))


def on_the_queue(api: FakeRunPod, route: str, body: Mapping[str, Any]) -> list[Any]:
    """Return the items of a job's answer."""
    result = api.wait_done(api.submit({"openai_route": route, "openai_input": dict(body)}))
    assert "error" not in result, result
    items: list[Any] = result["output"]
    return items


def events_of(text: str) -> list[dict[str, Any]]:
    """Return the objects of server-sent events, without `[DONE]`."""
    lines = [line for line in text.split("\n") if line.startswith("data: {")]
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def whole(chunks: list[dict[str, Any]], kind: type[BaseModel]) -> dict[str, Any]:
    """Return the sum of a stream's choices, and its usage."""
    choices: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        kind.model_validate_json(checkable(chunk), strict=True)
        for choice in chunk["choices"]:
            nothing: dict[str, Any] = {"text": "", "arguments": "", "tokens": []}
            so_far = choices.setdefault(choice["index"], nothing)
            delta = choice.get("delta") or choice
            so_far["text"] += delta.get("content") or delta.get("text") or ""
            for call in delta.get("tool_calls") or ():
                so_far["arguments"] += call["function"].get("arguments") or ""
            logprobs = choice["logprobs"] or {}
            so_far["tokens"] += logprobs.get("content") or logprobs.get("token_logprobs") or []
            so_far["reason"] = choice["finish_reason"], choice.get("stop_reason")
    return {"choices": choices, "usage": chunks[-1]["usage"]}


def test_the_queue_and_http_give_the_same_answers_and_errors(
    worker: Callable[..., Worker], runpod_api: FakeRunPod, demo_model: Path, tmp_path: Path
) -> None:
    """Ask new workers one call at a time, in one order, so that batches and caches are the same."""
    http, errors = [], []
    with http_worker(demo_model, tmp_path / "log", **BOTH) as served:
        for route, body in REFUSED:
            answer = over_http(served, route, body)
            assert answer.status_code in (400, 404), (route, body, answer.text)
            errors.append(answer.json()["error"])
        for route, body, kind in CALLS:
            answer = over_http(served, route, body)
            assert answer.status_code == 200, (route, body, answer.text)
            http.append(answer.json())
            if kind is not None:
                kind.model_validate_json(answer.text, strict=True)
    worker(**BOTH)
    for (route, body), wanted in zip(REFUSED, errors, strict=True):
        job = runpod_api.submit({"openai_route": route, "openai_input": body})
        assert json.loads(runpod_api.wait_done(job)["error"]) == wanted, (route, body)
    for (route, body, _), wanted in zip(CALLS, http, strict=True):
        (item,) = on_the_queue(runpod_api, route, body)
        assert shared(item) == shared(wanted), (route, body)
    answers = dict(zip(CHATS, http, strict=False))
    (call,) = answers["call"]["choices"][0]["message"]["tool_calls"]
    jsonschema.validate(json.loads(call["function"]["arguments"]), WEATHER)
    jsonschema.validate(json.loads(answers["schema"]["choices"][0]["message"]["content"]), PERSON)


STREAMS: list[tuple[str, dict[str, Any], type[BaseModel]]] = [
    *(
        (CHAT, CHATS[name], ChatCompletionChunk)
        for name in ("plain", "answers", "logprobs", "stop", "call", "schema", "regex")
    ),
    *(("/v1/completions", COMPLETIONS[name], Completion) for name in ("plain", "prompts", "ids")),
]


def test_the_queue_and_http_stream_the_same(
    worker: Callable[..., Worker], runpod_api: FakeRunPod, demo_model: Path, tmp_path: Path
) -> None:
    """Compare the sums of the streams; each door may cut a stream elsewhere."""
    more = {"stream": True, "stream_options": {"include_usage": True}}
    http = []
    with http_worker(demo_model, tmp_path / "log", **BOTH) as served:
        for route, body, kind in STREAMS:
            http.append(whole(events_of(post(served, route, {**body, **more}).text), kind))
    worker(**BOTH)
    for (route, body, kind), wanted in zip(STREAMS, http, strict=True):
        events = events_of("".join(on_the_queue(runpod_api, route, {**body, **more})))
        assert whole(events, kind) == wanted, (route, body)


def test_the_named_events_of_both_apis_come_through_the_queue(
    worker: Callable[..., Worker], runpod_api: FakeRunPod
) -> None:
    worker(**SETTINGS)

    def streamed(number: int) -> list[dict[str, Any]]:
        route, body, _ = OTHERS[number]
        return events_of("".join(on_the_queue(runpod_api, route, {**body, "stream": True})))

    events = streamed(0)
    assert (events[0]["type"], events[-1]["type"]) == ("response.created", "response.completed")
    (message,) = events[-1]["response"]["output"]
    jsonschema.validate(json.loads(message["content"][0]["text"]), PERSON)
    events = streamed(2)
    assert (events[0]["type"], events[-1]["type"]) == ("message_start", "message_stop")
    deltas = [each["delta"] for each in events if each["type"] == "content_block_delta"]
    assert {delta["type"] for delta in deltas} == {"input_json_delta"}
    jsonschema.validate(json.loads("".join(delta["partial_json"] for delta in deltas)), WEATHER)
