from __future__ import annotations

import asyncio
import json
import math
import random
from collections.abc import Mapping
from typing import Any

import pytest

from gguf_worker.api import answer_job
from gguf_worker.api.call import Dialect
from gguf_worker.api.job import parse_job
from gguf_worker.errors import ERRORS_BY_CODE, EngineInterrupted, InvalidRequest, WorkerError
from gguf_worker.events import Outcome
from gguf_worker.providers import TextDelta
from tests.api_doors import MESSAGES, Bench
from tests.fakes import ScriptedProvider, stop, text_deltas
from tests.waiting import until_async

CHAT_JOB = {"openai_route": "/v1/chat/completions", "openai_input": {"messages": MESSAGES}}


def parse(given: Any, **job: Any) -> Any:
    return parse_job({"id": "j1", "input": given, **job}, now=lambda: 100.0, default_timeout=60)


def refusal(given: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse(given)
    return caught.value


async def answer(bench: Bench, given: Any, **job: Any) -> list[Any]:
    items = answer_job(bench.gateway, {"id": "j1", "input": given, **job}, default_timeout=60)
    return [item async for item in items]


def streaming(job: Mapping[str, Any]) -> dict[str, Any]:
    return {**job, "openai_input": {**job["openai_input"], "stream": True}}


def test_a_native_input_is_the_body_itself() -> None:
    call = parse({"prompt": "Hi"})
    assert (call.route, call.dialect, call.body) == ("generate", Dialect.NATIVE, {"prompt": "Hi"})
    assert call.job_id == "j1"


def test_an_openai_input_is_unpacked() -> None:
    call = parse(CHAT_JOB)
    assert (call.route, call.dialect) == ("/v1/chat/completions", Dialect.OPENAI)
    assert call.body == {"messages": MESSAGES}


def test_a_route_and_its_body_may_go_by_plain_names() -> None:
    call = parse({"route": "/tokenize", "body": {"prompt": "Hi"}})
    assert (call.route, call.dialect, call.body) == ("/tokenize", Dialect.OPENAI, {"prompt": "Hi"})


@pytest.mark.parametrize("extra", [{}, {"openai_input": None}, {"openai_input": {}}])
@pytest.mark.parametrize(
    ("given", "route"),
    [
        ("/v1/models", "/v1/models"),
        ("/v1/models/", "/v1/models"),
        ("/v1/models?limit=1", "/v1/models"),
        ("//v1//models", "/v1/models"),
        ("/v1/models/demo", "/v1/models/demo"),
        ("/props", "/props"),
        ("/version/", "/version"),
    ],
)
def test_facts_need_no_body(given: str, route: str, extra: dict[str, Any]) -> None:
    assert parse({"openai_route": given, **extra}).route == route


@pytest.mark.parametrize("route", ["/api/tags", "/api/ps", "/api/version"])
def test_no_route_that_is_only_read_needs_a_body(route: str) -> None:
    call = parse({"route": route})
    assert (call.route, call.body) == (route, {})


async def test_ollamas_routes_are_answered_on_the_queue() -> None:
    bench = Bench(ScriptedProvider(text_deltas("a", "b")))
    body = {"messages": MESSAGES}
    items = await answer(bench, {"route": "/api/chat", "body": body})
    lines = [json.loads(line) for line in "".join(items).splitlines()]
    assert "".join(each["message"]["content"] for each in lines) == "ab"
    assert [each["done"] for each in lines] == [False, False, True]
    (item,) = await answer(bench, {"route": "/api/chat", "body": {**body, "stream": False}})
    assert item["message"]["content"] == "ab"


@pytest.mark.parametrize("task", ["health", "metrics"])
def test_a_task_is_a_route_of_its_own(task: str) -> None:
    assert parse({"task": task}).route == task


def test_every_call_has_an_id_of_its_own() -> None:
    assert parse({"prompt": "Hi"}).request_id != parse({"prompt": "Hi"}).request_id


@pytest.mark.parametrize(
    ("given", "param"),
    [
        (None, "input"),
        ({}, "input"),
        ([], "input"),
        ("Hi", "input"),
        (5, "input"),
        ({"task": "reboot"}, "task"),
        ({"task": ["health"]}, "task"),
        ({"task": {}}, "task"),
        ({"openai_route": 5}, "openai_route"),
        ({"openai_route": ""}, "openai_route"),
        ({"openai_route": "generate", "openai_input": {"prompt": "Hi"}}, "openai_route"),
        ({"openai_route": "health", "openai_input": {}}, "openai_route"),
        ({"openai_route": "/v1/chat/completions"}, "openai_input"),
        ({"openai_route": "/v1/chat/completions", "openai_input": []}, "openai_input"),
        ({"openai_route": "/v1/models", "openai_input": "x"}, "openai_input"),
        ({"route": 5}, "route"),
        ({"route": "generate", "body": {"prompt": "Hi"}}, "route"),
        ({"route": "/tokenize"}, "body"),
        ({"route": "/tokenize", "body": "Hi"}, "body"),
    ],
)
def test_an_input_that_asks_nothing_is_refused_naming_the_field(given: Any, param: str) -> None:
    assert refusal(given).param == param


@pytest.mark.parametrize(
    ("job", "given", "seconds"),
    [
        ({}, {}, 60),
        ({"policy": {"executionTimeout": 5000}}, {}, 5),
        ({"policy": {"executionTimeout": 900_000}}, {}, 900),
        ({"policy": {"executionTimeout": 900_000}}, {"timeout": 30}, 30),
        ({}, {"timeout": 2.5}, 2.5),
        ({}, {"timeout": 900}, 60),
        ({"policy": None}, {}, 60),
        ({"policy": {"executionTimeout": "5000"}}, {}, 60),
        ({"policy": {"executionTimeout": True}}, {}, 60),
        ({"policy": {"executionTimeout": math.nan}}, {}, 60),
        ({"policy": {"executionTimeout": 10**400}}, {"timeout": 10**400}, 60),
        ({"policy": {"executionTimeout": -1}}, {"timeout": "5"}, 60),
    ],
)
def test_a_job_has_the_time_that_the_platform_grants_and_may_ask_for_less(
    job: dict[str, Any], given: dict[str, Any], seconds: float
) -> None:
    assert parse({"prompt": "Hi", **given}, **job).deadline == 100 + seconds


async def test_a_whole_answer_is_one_object() -> None:
    (item,) = await answer(Bench(ScriptedProvider(text_deltas("a", "b"))), {"prompt": "Hi"})
    assert item["text"] == "ab"


async def test_a_native_stream_is_objects() -> None:
    bench = Bench(ScriptedProvider(text_deltas("a", "b")))
    *items, last = await answer(bench, {"prompt": "Hi", "stream": True})
    assert items == [{"text": "a", "tokens": 1}, {"text": "b", "tokens": 1}]
    assert last["finish_reason"] == "stop"


async def test_an_openai_stream_is_text_that_joins_to_an_event_stream() -> None:
    items = await answer(Bench(ScriptedProvider(text_deltas("a", "b"))), streaming(CHAT_JOB))
    assert all(isinstance(item, str) and item.startswith("data: ") for item in items)
    assert "".join(items).endswith("}\n\ndata: [DONE]\n\n")


LONG = '"Ö🦙\\n' * 60_000
RESPONSES_JOB = {
    "openai_route": "/v1/responses",
    "openai_input": {"input": "Hi", "stream": True},
}


@pytest.mark.parametrize(
    ("end", "last"), [(stop(), "response.completed"), (EngineInterrupted("x"), "response.failed")]
)
async def test_an_event_too_large_for_an_item_is_cut_and_joins_to_itself(
    end: Any, last: str
) -> None:
    bench = Bench(ScriptedProvider(TextDelta(LONG, 9), end))
    items = [item for item in await answer(bench, RESPONSES_JOB) if isinstance(item, str)]
    posted = [len(json.dumps({"output": item}, ensure_ascii=False).encode()) for item in items]
    assert max(posted) < 1_000_000
    told = [each.partition("\ndata: ")[2] for each in "".join(items).split("\n\n") if each]
    final = json.loads(told[-1])
    assert final["type"] == last
    assert final["response"]["output"][0]["content"][0]["text"] == LONG


async def test_an_event_that_fits_an_item_is_not_cut() -> None:
    bench = Bench(ScriptedProvider(text_deltas("a" * 90_000, "b" * 90_000)))
    items = await answer(bench, RESPONSES_JOB)
    assert all(item.startswith("event: ") and item.endswith("\n\n") for item in items)
    assert max(map(len, items)) > 180_000


async def test_an_error_is_json_in_a_string_and_last() -> None:
    bench = Bench(ScriptedProvider(TextDelta("a", 1), EngineInterrupted("Ask again – ş.")))
    *before, last = await answer(bench, {"prompt": "Hi", "stream": True})
    assert before[0] == {"text": "a", "tokens": 1}
    assert json.loads(last["error"]) == {
        "message": "Ask again – ş.",
        "type": "server_error",
        "param": None,
        "code": "engine_interrupted",
    }


@pytest.mark.parametrize("kind", list(ERRORS_BY_CODE.values()))
@pytest.mark.parametrize("begun", [True, False])
async def test_a_reader_of_a_native_stream_sees_its_failure(
    kind: type[WorkerError], begun: bool
) -> None:
    # The SDK posts no item with `error` to the stream: it ends the job with that.
    deltas = [TextDelta("a", 1)] if begun else []
    bench = Bench(ScriptedProvider(*deltas, kind("Ask again.")))
    *shown, last = await answer(bench, {"prompt": "Hi", "stream": True})
    failure = json.loads(last["error"])
    assert shown[len(deltas) :] == [{"finish_reason": "error", "failure": failure}]
    assert not any("error" in item for item in shown)


async def test_a_native_stream_that_is_not_even_read_ends_with_its_failure_too() -> None:
    shown, last = await answer(Bench(ScriptedProvider()), {"prompt": 5, "stream": True})
    assert shown["failure"] == json.loads(last["error"])
    assert shown["failure"]["param"] == "prompt"


@pytest.mark.parametrize("given", [{"prompt": "Hi"}, {"prompt": "Hi", "stream": False}])
async def test_a_whole_answer_that_fails_is_its_error_alone(given: dict[str, Any]) -> None:
    (item,) = await answer(Bench(ScriptedProvider(EngineInterrupted("Again."))), given)
    assert set(item) == {"error"}


async def test_on_an_event_stream_an_error_event_comes_before_the_error() -> None:
    bench = Bench(ScriptedProvider(TextDelta("a", 1), EngineInterrupted("Ask again.")))
    *_, event, last = await answer(bench, streaming(CHAT_JOB))
    assert json.loads(event.removeprefix("data: ")) == {"error": json.loads(last["error"])}


async def test_the_request_has_ended_before_its_error_is_handed_over() -> None:
    # The SDK stops reading at an error and does not close the generator.
    bench = Bench(ScriptedProvider(EngineInterrupted("Ask again.")))
    items = answer_job(bench.gateway, {"id": "j", "input": {"prompt": "Hi"}}, default_timeout=60)
    assert "error" in await anext(items)
    assert bench.provider.closed == 1
    assert bench.done.code == "engine_interrupted"
    await items.aclose()


async def test_an_empty_input_gives_a_stable_code_and_one_report() -> None:
    bench = Bench(ScriptedProvider())
    (item,) = await answer(bench, {})
    assert json.loads(item["error"])["code"] == "invalid_request"
    assert (bench.done.job_id, bench.done.outcome) == ("j1", Outcome.ERROR)


async def test_what_json_cannot_say_becomes_null() -> None:
    (item,) = await answer(Bench(ScriptedProvider()), {"task": "health"})
    assert item == {"state": "ready", "load": None}


async def test_a_job_without_an_id_is_answered() -> None:
    bench = Bench(ScriptedProvider(text_deltas("a")))
    items = answer_job(bench.gateway, {"input": {"prompt": "Hi"}}, default_timeout=60)
    assert len([item async for item in items]) == 1
    assert bench.done.job_id == "unknown"


async def test_a_job_cancelled_while_it_waits_for_a_token_frees_its_answer() -> None:
    bench = Bench(ScriptedProvider(TextDelta("a", 1), asyncio.Event()))
    task = asyncio.create_task(answer(bench, streaming(CHAT_JOB)))
    await until_async(bench.provider.parked.is_set)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert bench.provider.closed == 1
    assert bench.done.outcome is Outcome.CANCELLED


async def test_a_job_dropped_between_two_items_frees_its_answer() -> None:
    bench = Bench(ScriptedProvider(text_deltas("a", "b")))
    items = answer_job(
        bench.gateway, {"id": "j", "input": {"prompt": "Hi", "stream": True}}, default_timeout=60
    )
    await anext(items)
    del items
    await until_async(lambda: bench.provider.closed)
    assert bench.provider.closed == 1
    assert bench.done.outcome is Outcome.CANCELLED


ODD: list[Any] = [
    None, True, False, 0, -1, 1.5, 10**30, math.nan, math.inf, "", "x", "\ud800", "/v1/models",
    "/v1/chat/completions", "health", [], [1], ["a"], [[]], {}, {"a": 1}, MESSAGES,
    {"messages": MESSAGES}, {"prompt": "x", "stream": True}, {"role": "user", "content": "x"},
]  # fmt: skip
NAMES = [
    "prompt", "messages", "stream", "stream_options", "model", "openai_route", "openai_input",
    "task", "timeout", "temperature", "logit_bias", "stop", "seed", "sampling_params", "n",
    "best_of", "priority", "user", "max_tokens", "chat_template_kwargs", "tools", "banana",
]  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_a_job_holds_it_ends_once_with_plain_json(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(400):
        bench = Bench(ScriptedProvider(text_deltas("a")))
        given = {name: chance.choice(ODD) for name in chance.sample(NAMES, chance.randint(0, 5))}
        if chance.random() < 0.3:
            given = {"openai_route": chance.choice(ODD), "openai_input": given}
        items = await answer(bench, given, policy=chance.choice(ODD))
        json.dumps(items, allow_nan=False, ensure_ascii=False).encode()
        errors = [item for item in items if isinstance(item, dict) and "error" in item]
        assert bench.done.code == (json.loads(errors[0]["error"])["code"] if errors else None)
        assert errors in ([], items[-1:])
        assert bench.done.code in {None, *ERRORS_BY_CODE} - {"internal_error"}


@pytest.mark.parametrize("route", ["/tokenize", "/v1/embeddings"])
async def test_an_answer_that_would_be_lost_on_its_way_is_an_error_instead(
    route: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "x" * 3000
    bodies: Mapping[str, Any] = {
        "/tokenize": {"prompt": text},
        "/v1/embeddings": {"input": list(text[:200])},
    }
    job = {"route": route, "body": bodies[route]}
    (whole,) = await answer(Bench(ScriptedProvider()), job)
    size = len(json.dumps(whole))
    for most, fits in ((size, True), (size - 1, False)):
        monkeypatch.setattr("gguf_worker.api.job.LARGEST_ANSWER", most)
        bench = Bench(ScriptedProvider())
        (item,) = await answer(bench, job)
        if fits:
            assert item == whole
            assert bench.done.outcome is Outcome.STOP
        else:
            assert json.loads(item["error"])["code"] == "payload_too_large"
            assert str(size) in item["error"]
            assert (bench.done.outcome, bench.done.code) == (Outcome.ERROR, "payload_too_large")


async def test_a_stream_may_be_longer_than_a_whole_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gguf_worker.api.job.LARGEST_ANSWER", 10)
    items = await answer(Bench(ScriptedProvider(text_deltas("a", "b"))), streaming(CHAT_JOB))
    assert items[-1].endswith("data: [DONE]\n\n")
    (item,) = await answer(Bench(ScriptedProvider(text_deltas("a", "b"))), CHAT_JOB)
    assert json.loads(item["error"])["code"] == "payload_too_large"
