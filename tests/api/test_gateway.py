from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest

from gguf_worker.api.call import ApiCall
from gguf_worker.api.routes import SERVED_PATHS
from gguf_worker.api.writing import Body, EventText, Failed, Item
from gguf_worker.errors import (
    DeadlineExceeded,
    EngineInterrupted,
    EngineUnavailable,
    InternalError,
    InvalidRequest,
    ModelCorrupt,
    ModelNotFound,
    RequestCancelled,
    UnknownRoute,
)
from gguf_worker.events import Outcome
from gguf_worker.generation import Usage
from gguf_worker.providers import (
    Ended,
    Finish,
    GenerationRequest,
    ModelCard,
    Part,
    TextDelta,
    ToolCallDelta,
)
from tests.api_doors import MESSAGES, Bench, call, chat, completion, native
from tests.fakes import USAGE, ScriptedProvider, Step, answers, stop, text_deltas
from tests.waiting import until_async

CALLS = [
    pytest.param(make, stream, id=f"{make.__name__}-{'stream' if stream else 'whole'}")
    for make in (chat, completion, native)
    for stream in (True, False)
]


@pytest.mark.parametrize(("make", "stream"), CALLS)
async def test_every_form_of_an_answer_has_the_same_text(make: Any, stream: bool) -> None:
    bench = Bench(ScriptedProvider(text_deltas("Mer", "haba ", "👋")))
    replies = await bench.ask(make(stream=stream))
    said = "".join(map(str, replies))
    assert all(text in said for text in ("Mer", "haba ", "👋"))
    assert bench.done.outcome is Outcome.STOP
    assert bench.done.stream is stream
    assert bench.provider.closed == 1


async def test_a_delta_is_one_reply_and_the_first_comes_before_the_second_is_there() -> None:
    more = asyncio.Event()
    bench = Bench(ScriptedProvider(TextDelta("a", 1), more, TextDelta("b", 4), stop()))
    async with aclosing(bench.gateway.handle(chat(stream=True))) as replies:
        first = await anext(replies)
        assert isinstance(first, EventText)
        assert '"content":"a"' in first.text
        assert not more.is_set()
        more.set()
        rest = [reply async for reply in replies]
    assert len(rest) == 2


async def test_the_report_says_what_the_request_cost() -> None:
    bench = Bench(ScriptedProvider(text_deltas("a")))
    await bench.ask(native())
    done = bench.done
    assert (done.request_id, done.job_id, done.route, done.code) == ("r1", "j1", "generate", None)
    assert (done.prompt_tokens, done.cached_tokens, done.completion_tokens) == (7, 2, 3)
    assert (done.queue_seconds, done.prefill_seconds) == (0.01, 0.02)


async def test_times_are_of_this_door_and_a_slow_reader_does_not_lengthen_them() -> None:
    first, last = asyncio.Event(), asyncio.Event()
    bench = Bench(ScriptedProvider(first, TextDelta("a", 1), last, stop()))
    async with aclosing(bench.gateway.handle(native(stream=True))) as replies:
        reading = asyncio.ensure_future(anext(replies))
        await asyncio.sleep(0)
        bench.clock.advance(2)
        first.set()
        await reading
        bench.clock.advance(3)
        last.set()
        final = await anext(replies)
        bench.clock.advance(100)
    assert isinstance(final, Item)
    assert final.data["metrics"]["ttft_ms"] == 2000
    assert final.data["metrics"]["total_ms"] == 5000
    assert (bench.done.ttft_seconds, bench.done.seconds) == (2, 5)


async def test_a_whole_answer_counts_its_first_token_though_it_comes_at_the_end() -> None:
    bench = Bench(ScriptedProvider(TextDelta("a", 9), Finish("stop", Usage(7, 9, 0, 1, 1, 2, 5))))
    async with aclosing(bench.gateway.handle(chat())) as replies:
        bench.clock.advance(6)
        _ = [reply async for reply in replies]
    assert bench.provider.requests[0].whole
    assert bench.done.ttft_seconds is not None
    assert bench.done.seconds - bench.done.ttft_seconds == 3


async def test_parts_of_a_stream_are_shown_and_so_it_is_not_whole() -> None:
    bench = Bench(ScriptedProvider(text_deltas("a")))
    await bench.ask(chat(stream=True))
    assert not bench.provider.requests[0].whole


@pytest.mark.parametrize("cold", [True, False])
async def test_an_answer_says_if_it_paid_for_the_start(cold: bool) -> None:
    (reply,) = await Bench(ScriptedProvider(text_deltas("a")), cold=cold).ask(native())
    assert isinstance(reply, Body)
    assert reply.data["metrics"]["cold"] is cold
    phases = reply.data["metrics"].get("cold_start_seconds")
    assert phases == ({"load": 1.235} if cold else None)


async def test_only_a_request_that_reaches_the_provider_can_pay_for_the_start() -> None:
    bench = Bench(ScriptedProvider(text_deltas("a")), cold=True)
    await bench.ask(native(top_p=7))
    await bench.ask(native(model="other"))
    assert bench.asked_if_cold == 0
    await bench.ask(native())
    assert bench.asked_if_cold == 1


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("/v1/embeddings", {"input": "a"}),
        ("/v1/rerank", {"query": "a", "documents": ["b"]}),
        ("/tokenize", {"prompt": "a"}),
        ("/detokenize", {"tokens": [97]}),
        ("/v1/messages/count_tokens", {"messages": MESSAGES}),
    ],
)
async def test_a_request_without_an_answers_end_pays_for_the_start_too(
    route: str, body: dict[str, Any]
) -> None:
    bench = Bench(ScriptedProvider(), cold=True)
    (reply,) = await bench.ask(call(route, body))
    assert isinstance(reply, Body)
    assert bench.asked_if_cold == 1, "else a later answer would say that it was cold"


async def test_a_length_finish_is_reported_as_such() -> None:
    bench = Bench(ScriptedProvider(TextDelta("a", 1), Finish("length", USAGE)))
    (reply,) = await bench.ask(chat())
    assert isinstance(reply, Body)
    assert reply.data["choices"][0]["finish_reason"] == "length"
    assert bench.done.outcome is Outcome.LENGTH


@pytest.mark.parametrize(("make", "stream"), CALLS)
async def test_several_answers_are_one_request_with_one_end_and_one_report(
    make: Any, stream: bool
) -> None:
    bench = Bench(ScriptedProvider(answers("Q", "WX")))
    said = "".join(map(str, await bench.ask(make(stream=stream, n=2))))
    assert all(letter in said for letter in ("Q", "W", "X"))
    assert bench.provider.requests[0].n == 2
    assert (bench.done.outcome, bench.done.completion_tokens) == (Outcome.LENGTH, 3)


@pytest.mark.parametrize(("make", "stream"), CALLS)
async def test_one_failure_among_several_answers_is_the_one_end_of_all(
    make: Any, stream: bool
) -> None:
    error = EngineInterrupted("The engine stopped; ask again.")
    script: list[Step] = [TextDelta("Q", 1, 0), Ended("stop", 0), TextDelta("W", 1, 1), error]
    bench = Bench(ScriptedProvider(*script))
    *before, last = await bench.ask(make(stream=stream, n=2))
    assert isinstance(last, Failed)
    assert last.error is error
    assert bool(before) is stream
    assert bench.done.outcome is Outcome.ERROR
    assert bench.done.completion_tokens == 2


async def test_answers_to_one_prompt_are_seen_as_they_come() -> None:
    more = asyncio.Event()
    script: list[Step] = [
        TextDelta("a", 1, 0),
        TextDelta("b", 1, 1),
        more,
        Ended("stop", 0),
        Finish("stop", USAGE, 1),
    ]
    bench = Bench(ScriptedProvider(*script))
    async with aclosing(bench.gateway.handle(native(stream=True, n=2))) as replies:
        assert [await anext(replies), await anext(replies)] == [
            Item({"text": "a", "tokens": 1, "index": 0}),
            Item({"text": "b", "tokens": 1, "index": 1}),
        ]
        assert not more.is_set()


@pytest.mark.parametrize(("make", "stream"), CALLS)
@pytest.mark.parametrize("said", [0, 2])
async def test_a_failure_is_the_last_reply_whenever_it_comes(
    make: Any, stream: bool, said: int
) -> None:
    error = EngineInterrupted("The engine stopped; ask again.")
    bench = Bench(ScriptedProvider([TextDelta("x", 1)] * said, error))
    *before, last = await bench.ask(make(stream=stream))
    assert isinstance(last, Failed)
    assert last.error is error
    assert len(before) == (said if stream else 0)
    assert (last.event is not None) == (stream and make is not native)
    assert (bench.done.outcome, bench.done.code) == (Outcome.ERROR, "engine_interrupted")
    assert bench.done.completion_tokens == said
    assert bench.provider.closed == 1


async def test_a_bug_shows_the_caller_nothing_and_the_log_everything_but_the_prompt(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench(ScriptedProvider(TextDelta("x", 1), ValueError("the prompt was: SECRET")))
    with caplog.at_level(logging.DEBUG):
        (last,) = await bench.ask(native(prompt="SECRET"))
    assert isinstance(last, Failed)
    assert isinstance(last.error, InternalError)
    assert "ValueError" not in last.error.message
    assert "r1" in last.error.message
    (record,) = caplog.records
    assert "ValueError" in record.getMessage()
    assert "fakes.py" in record.getMessage()
    assert "SECRET" not in caplog.text
    assert (bench.done.outcome, bench.done.code) == (Outcome.ERROR, "internal_error")


async def test_an_answer_without_an_end_is_a_bug_not_a_short_answer() -> None:
    bench = Bench(ScriptedProvider(TextDelta("x", 1)))
    (last,) = await bench.ask(native())
    assert isinstance(last, Failed)
    assert last.error.code == "internal_error"


async def test_nothing_is_asked_of_the_provider_after_the_end() -> None:
    bench = Bench(ScriptedProvider(stop(), ValueError("asked again")))
    (reply,) = await bench.ask(native())
    assert isinstance(reply, Body)
    assert bench.provider.closed == 1


@pytest.mark.parametrize("stream", [True, False])
async def test_cancelling_the_task_closes_the_answer_and_reports_it_cancelled(stream: bool) -> None:
    bench = Bench(ScriptedProvider(TextDelta("a", 1), asyncio.Event()))
    task = asyncio.create_task(bench.ask(chat(stream=stream)))
    await until_async(bench.provider.parked.is_set)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert bench.provider.closed == 1
    assert (bench.done.outcome, bench.done.code) == (Outcome.CANCELLED, None)
    assert bench.done.completion_tokens == 1


async def test_closing_the_replies_closes_the_answer_and_reports_it_cancelled() -> None:
    bench = Bench(ScriptedProvider(text_deltas("a", "b")))
    replies = bench.gateway.handle(native(stream=True))
    await anext(replies)
    assert bench.provider.closed == 0
    await replies.aclose()
    assert bench.provider.closed == 1
    assert bench.done.outcome is Outcome.CANCELLED


async def test_dropping_the_replies_unfinished_closes_the_answer_too() -> None:
    bench = Bench(ScriptedProvider(text_deltas("a", "b")))
    replies = bench.gateway.handle(native(stream=True))
    await anext(replies)
    del replies
    await until_async(lambda: bench.provider.closed)
    assert bench.provider.closed == 1
    assert bench.done.outcome is Outcome.CANCELLED


async def test_a_reader_that_leaves_after_the_last_reply_has_been_answered() -> None:
    bench = Bench(ScriptedProvider(text_deltas("a")))
    replies = bench.gateway.handle(native())
    await anext(replies)
    await replies.aclose()
    assert bench.done.outcome is Outcome.STOP


async def test_a_request_that_the_engine_cancelled_counts_as_cancelled() -> None:
    bench = Bench(ScriptedProvider(RequestCancelled("cancelled")))
    await bench.ask(native())
    assert (bench.done.outcome, bench.done.code) == (Outcome.CANCELLED, "cancelled")


@pytest.mark.parametrize(
    "error",
    [
        ModelCorrupt("The file is cut short."),
        EngineUnavailable("Starting."),
        DeadlineExceeded("Late."),
    ],
)
async def test_without_a_provider_the_reason_is_the_answer(error: Any) -> None:
    bench = Bench(error)
    (reply,) = await bench.ask(chat())
    assert reply == Failed(error)
    assert bench.done.code == error.code


async def test_a_bad_body_never_reaches_the_provider() -> None:
    bench = Bench(ScriptedProvider(text_deltas("a")))
    (reply,) = await bench.ask(chat(top_p=3, stream=True))
    assert isinstance(reply, Failed)
    assert isinstance(reply.error, InvalidRequest)
    assert reply.event is not None
    assert bench.provider.requests == []
    assert bench.done.code == "invalid_request"


async def test_the_deadline_goes_with_the_request() -> None:
    bench = Bench(ScriptedProvider(text_deltas("a")))
    await bench.ask(ApiCall("r7", "j", "generate", {"prompt": "Hi"}, native().dialect, 55.5))
    (generation,) = bench.provider.requests
    assert (generation.id, generation.deadline) == ("r7", 55.5)


@pytest.mark.parametrize("name", ["demo", "gpt-4o", None])
@pytest.mark.parametrize("make", [chat, completion, native])
async def test_a_model_may_be_called_by_its_name_or_alias_or_not_at_all(
    make: Any, name: str | None
) -> None:
    (reply,) = await Bench(ScriptedProvider(text_deltas("a"))).ask(make(model=name))
    assert isinstance(reply, Body)
    assert reply.data["model"] == "demo"


@pytest.mark.parametrize("make", [chat, completion, native])
async def test_another_models_name_is_refused_naming_the_one_served(make: Any) -> None:
    (reply,) = await Bench(ScriptedProvider()).ask(make(model="gpt-99"))
    assert isinstance(reply, Failed)
    assert isinstance(reply.error, ModelNotFound)
    assert "'gpt-99'" in reply.error.message
    assert "'demo'" in reply.error.message
    assert reply.error.param == "model"


async def test_models_are_listed_and_found_by_name() -> None:
    (listed,) = await Bench(ScriptedProvider()).ask(call("/v1/models"))
    (found,) = await Bench(ScriptedProvider()).ask(call("/v1/models/demo"))
    assert isinstance(listed, Body)
    assert isinstance(found, Body)
    assert listed.data["data"] == [found.data]
    assert found.data["max_model_len"] == 2048


async def test_a_model_that_is_not_there_is_not_found() -> None:
    bench = Bench(ScriptedProvider())
    (reply,) = await bench.ask(call("/v1/models/org/other"))
    assert isinstance(reply, Failed)
    assert isinstance(reply.error, ModelNotFound)
    assert bench.done.route == "/v1/models"


@pytest.mark.parametrize("route", ["/v1/images", "/v1", "/chat/completions", "/v1/modelsx", "x"])
async def test_an_unknown_route_lists_what_there_is(route: str) -> None:
    bench = Bench(ScriptedProvider())
    (reply,) = await bench.ask(call(route, {"stream": True}))
    assert isinstance(reply, Failed)
    assert isinstance(reply.error, UnknownRoute)
    assert all(route in reply.error.message for route in SERVED_PATHS)
    assert bench.done.route == "unknown"


async def test_health_and_metrics_are_tasks() -> None:
    (health,) = await Bench(ScriptedProvider()).ask(call("health"))
    bench = Bench(EngineUnavailable("Starting."))
    (metrics,) = await bench.ask(call("metrics"))
    assert isinstance(health, Body)
    assert health.data["state"] == "ready"
    assert metrics == Body({"metrics": "up 1\n"})
    assert bench.done.outcome is Outcome.STOP


async def test_a_refused_call_is_reported_like_any_other() -> None:
    bench = Bench(ScriptedProvider())
    reply = bench.gateway.refuse(chat(), InvalidRequest("No.", param="x"))
    assert isinstance(reply, Failed)
    assert (bench.done.outcome, bench.done.code) == (Outcome.ERROR, "invalid_request")


async def test_many_requests_at_once_keep_their_answers_apart() -> None:
    class Echo(ScriptedProvider):
        async def answer(self, request: GenerationRequest) -> AsyncGenerator[Part, None]:
            for letter in str(request.prompts[0]):
                await asyncio.sleep(0)
                yield TextDelta(letter, 1)
            yield stop()

    bench = Bench(Echo())
    texts = [f"request {n}" for n in range(50)]
    answers = await asyncio.gather(*(bench.ask(native(prompt=text)) for text in texts))
    bodies = [answer[0] for answer in answers if isinstance(answer[0], Body)]
    assert [body.data["text"] for body in bodies] == texts
    assert len(bench.facts) == 50


# What is no generation


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({"prompt": "Hi"}, [1, 72, 105]),
        ({"content": "Hi"}, [1, 72, 105]),
        ({"content": "Hi", "add_special": False}, [72, 105]),
        ({"prompt": "Hi", "add_special_tokens": False}, [72, 105]),
        ({"prompt": "", "add_special": False}, []),
        ({"messages": [{"role": "user", "content": "Hi"}]}, [1, 72, 105]),
        ({"prompt": "Hi", "model": "demo"}, [1, 72, 105]),
    ],
)
async def test_a_text_is_given_as_tokens(body: dict[str, Any], tokens: list[int]) -> None:
    bench = Bench(ScriptedProvider())
    (reply,) = await bench.ask(call("/tokenize", body))
    assert isinstance(reply, Body)
    assert reply.data == {"count": len(tokens), "max_model_len": 2048, "tokens": tokens}
    assert (bench.done.outcome, bench.done.route) == (Outcome.STOP, "/tokenize")


@pytest.mark.parametrize("with_pieces", [True, False, None])
async def test_tokens_come_with_their_pieces_as_llama_server_gives_them(
    with_pieces: bool | None,
) -> None:
    body = {"content": "a\u00e9", "add_special": False, "with_pieces": with_pieces}
    (reply,) = await Bench(ScriptedProvider()).ask(call("/tokenize", body))
    assert isinstance(reply, Body)
    pieces = [
        {"id": 97, "piece": "a"},
        {"id": 0xC3, "piece": [0xC3]},  # half of a character
        {"id": 0xA9, "piece": [0xA9]},
    ]
    assert reply.data["tokens"] == (pieces if with_pieces else [97, 0xC3, 0xA9])
    assert reply.data["count"] == 3
    assert "warnings" not in reply.data


async def test_tokens_are_given_as_a_text() -> None:
    (reply,) = await Bench(ScriptedProvider()).ask(call("/detokenize", {"tokens": [72, 105]}))
    assert isinstance(reply, Body)
    assert reply.data == {"prompt": "Hi", "content": "Hi"}


@pytest.mark.parametrize(
    ("route", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "content": "b"}, "prompt"),
        ("/tokenize", {"prompt": 5}, "prompt"),
        ("/tokenize", {"messages": [{"role": "king"}]}, "messages[0].role"),
        ("/tokenize", {"prompt": "a", "model": "other"}, "model"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": ["a"]}, "tokens[0]"),
        ("/detokenize", {"tokens": [-1]}, "tokens[0]"),
        ("/detokenize", {"tokens": [1], "model": "other"}, "model"),
    ],
)
async def test_what_has_no_tokens_or_text_is_refused(
    route: str, body: dict[str, Any], param: str
) -> None:
    bench = Bench(ScriptedProvider())
    (reply,) = await bench.ask(call(route, body))
    assert isinstance(reply, Failed)
    assert reply.error.param == param
    assert bench.done.outcome is Outcome.ERROR


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"guided_regex": "("}, "guided_regex"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
    ],
)
async def test_a_grammar_that_the_engine_refuses_is_named_as_the_caller_does(
    body: dict[str, Any], field: str
) -> None:
    refusal = InvalidRequest("no", param="grammar")
    (reply,) = await Bench(ScriptedProvider(refusal)).ask(chat(**body))
    assert isinstance(reply, Failed)
    assert reply.error.param == field


async def test_an_answer_that_begins_with_a_call_has_a_first_moment() -> None:
    bench = Bench(
        ScriptedProvider(ToolCallDelta(0, "", 2, id="c", name="f"), Finish("tool_calls", USAGE))
    )
    await bench.ask(chat())
    assert bench.done.ttft_seconds is not None
    assert bench.done.outcome is Outcome.TOOL_CALLS


SEVERAL = (
    ModelCard("small", aliases=("gpt-4o-mini",), created=1, context=512),
    ModelCard("large", aliases=("gpt-4o",), created=2),
)


@pytest.mark.parametrize(
    ("given", "reached"),
    [(None, "small"), ("small", "small"), ("gpt-4o", "large"), ("large", "large")],
)
@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("/v1/chat/completions", {"messages": MESSAGES}),
        ("/v1/completions", {"prompt": "a"}),
        ("/v1/responses", {"input": "a"}),
        ("/v1/messages", {"messages": MESSAGES, "max_tokens": 4}),
        ("/v1/messages/count_tokens", {"messages": MESSAGES}),
        ("/v1/embeddings", {"input": "a"}),
        ("/v1/rerank", {"query": "a", "documents": ["b"]}),
        ("/tokenize", {"prompt": "a"}),
        ("/detokenize", {"tokens": [97]}),
        ("generate", {"prompt": "a"}),
    ],
)
async def test_of_several_models_the_one_that_is_named_is_asked_else_the_first(
    route: str, body: dict[str, Any], given: str | None, reached: str
) -> None:
    named = {} if given is None else {"model": given}
    script = [] if route in ("/v1/embeddings", "/v1/rerank") else text_deltas("a")
    bench = Bench(ScriptedProvider(script), cards=SEVERAL)
    (reply,) = await bench.ask(call(route, {**body, **named}))
    assert isinstance(reply, Body)
    assert bench.reached == [reached]
    assert reply.data.get("model", reached) == reached


async def test_the_list_has_every_model_and_what_is_known_of_it() -> None:
    bench = Bench(ScriptedProvider(), cards=SEVERAL)
    (reply,) = await bench.ask(call("/v1/models"))
    assert isinstance(reply, Body)
    found = [(each["id"], each["max_model_len"]) for each in reply.data["data"]]
    assert found == [("small", 512), ("large", None)]
    assert (reply.data["first_id"], reply.data["last_id"]) == ("small", "large")
    (reply,) = await bench.ask(call("/v1/models/gpt-4o"))
    assert isinstance(reply, Body)
    assert reply.data["id"] == "large"


async def test_a_model_that_is_not_there_is_an_error_that_lists_those_that_are() -> None:
    bench = Bench(ScriptedProvider(), cards=SEVERAL)
    (reply,) = await bench.ask(chat(model="other"))
    assert isinstance(reply, Failed)
    assert isinstance(reply.error, ModelNotFound)
    assert reply.error.message.endswith("this worker serves 'small', 'large'.")
    assert bench.reached == []
