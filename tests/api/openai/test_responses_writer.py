"""Answers of /v1/responses, held to the `openai` package's own types and client."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import httpx2
import pytest
from openai import OpenAI
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from gguf_worker.api.openai import RESPONSES_ERRORS, read_responses, responses_writer
from gguf_worker.api.writing import (
    LARGEST_TEXT,
    Body,
    EventText,
    Heading,
    NamedEventReplies,
)
from gguf_worker.errors import ERRORS_BY_CODE, InvalidRequest, Overloaded, WorkerError
from gguf_worker.generation import TokenLogprob
from gguf_worker.providers import TextDelta, ToolCallDelta
from tests.api.streamed_answers import CALLED, CALLS, CUT_OFF, STOP, Part, play, raw, thought
from tests.api_doors import generation_call

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def given(**body: Any) -> dict[str, Any]:
    """A body that the reader takes."""
    whole = {"input": "Hi", **body}
    read_responses(whole, id="r", deadline=None)
    return whole


def response_writer(stream: bool, **body: Any) -> NamedEventReplies:
    heading = Heading("r1", "demo", 17, body=given(**body))
    return responses_writer(heading, generation_call(stream=stream))


def parsed(text: str) -> list[Any]:
    """The events, each valid, named in its head as in its data, and numbered from 0."""
    *frames, nothing = text.split("\n\n")
    assert nothing == ""
    events = []
    for frame in frames:
        name, data = frame.split("\n")
        event = EVENT.validate_json(data.removeprefix("data: "), strict=True)
        assert name == f"event: {event.type}"
        events.append(event)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    return events


def streamed(*parts: Part, **body: Any) -> list[Any]:
    return parsed(raw(play(response_writer(True, **body), parts)))


def whole(*parts: Part, **body: Any) -> Any:
    (reply,) = play(response_writer(False, **body), parts)
    assert isinstance(reply, Body)
    return Response.model_validate_json(json.dumps(reply.data), strict=True)


def types(events: Sequence[Any]) -> list[str]:
    return [event.type.removeprefix("response.") for event in events]


def test_a_whole_response() -> None:
    response = whole(TextDelta("Mer", 1), TextDelta("haba", 2), STOP)
    assert (response.id, response.object, response.created_at) == ("resp_r1", "response", 17)
    assert (response.model, response.status, response.output_text) == (
        "demo", "completed", "Merhaba"
    )  # fmt: skip
    (message,) = response.output
    assert (message.type, message.role, message.status) == ("message", "assistant", "completed")
    assert response.error is response.incomplete_details is None
    usage = response.usage
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (7, 3, 10)
    assert usage.input_tokens_details.cached_tokens == 2
    assert response.metrics == {"cold": False}


def test_a_response_repeats_what_it_was_asked() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    tool = {"type": "function", "name": "f", "parameters": schema, "strict": None}
    response = whole(
        STOP,
        instructions="Be short.",
        metadata={"a": "b"},
        temperature=0.5,
        top_p=1,
        max_output_tokens=9,
        tools=[tool],
        tool_choice="none",
        parallel_tool_calls=False,
        reasoning={"effort": "low"},
        text={"format": {"type": "json_schema", "name": "x", "schema": schema}},
        store=True,
        user="u",
    )
    assert (response.instructions, response.metadata) == ("Be short.", {"a": "b"})
    assert (response.temperature, response.top_p, response.max_output_tokens) == (0.5, 1, 9)
    assert (response.tools[0].name, response.tools[0].parameters) == ("f", schema)
    assert (response.tool_choice, response.parallel_tool_calls) == ("none", False)
    assert response.reasoning.effort == "low"
    assert response.text.format.schema_ == schema
    assert (response.user, response.truncation, response.store) == ("u", "disabled", False)


@pytest.mark.parametrize(
    "body", [{}, {"tools": None, "tool_choice": None, "text": None, "metadata": None}]
)
def test_what_was_not_asked_has_its_default(body: dict[str, Any]) -> None:
    response = whole(STOP, **body)
    assert (response.tools, response.tool_choice, response.metadata) == ([], "auto", {})
    assert response.parallel_tool_calls is True
    assert response.text.format.type == "text"


def test_a_named_choice_is_repeated() -> None:
    tool = {"type": "function", "name": "f"}
    assert whole(STOP, tools=[tool], tool_choice=tool).tool_choice.name == "f"


def test_a_stream_of_text() -> None:
    events = streamed(TextDelta("Mer", 1), TextDelta("", 1), TextDelta("haba", 1), STOP)
    assert types(events) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert events[0].response.status == "in_progress"
    assert events[0].response.output == []
    assert events[2].item.content == []
    assert [event.delta for event in events[4:6]] == ["Mer", "haba"]
    assert {event.item_id for event in events[3:8]} == {events[2].item.id}
    assert events[6].text == events[7].part.text == events[8].item.content[0].text == "Merhaba"
    assert (events[2].item.status, events[8].item.status) == ("in_progress", "completed")
    assert events[-1].response.output == [events[8].item]


def test_a_stream_ends_with_what_a_whole_answer_is() -> None:
    parts: list[Part] = [thought("Hm."), TextDelta("A", 1), *CALLS, CALLED]
    assert streamed(*parts)[-1].response == whole(*parts)


def test_thoughts_are_an_item_before_the_text() -> None:
    events = streamed(thought("Hm"), thought("."), TextDelta("A", 1), STOP)
    assert types(events)[2:10] == [
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
    ]
    response = events[-1].response
    first, second = response.output
    assert (first.type, first.summary, first.content[0].text) == ("reasoning", [], "Hm.")
    assert second.type == "message"
    assert response.usage.output_tokens_details.reasoning_tokens == 2


def test_calls_are_items_of_their_own() -> None:
    events = streamed(TextDelta("Let me see.", 1), *CALLS, CALLED)
    calls = [event for event in events if "function_call" in event.type]
    assert types(calls) == [
        "function_call_arguments.delta",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "function_call_arguments.delta",
        "function_call_arguments.done",
    ]
    assert [event.output_index for event in calls] == [1, 1, 1, 2, 2]
    assert calls[2].arguments == '{"city":"Ye🦙"}'
    _, first, second = events[-1].response.output
    arguments = '{"city":"Ye🦙"}'
    assert (first.call_id, first.name, first.arguments) == ("call_a", "weather", arguments)
    assert (second.call_id, second.name, second.arguments) == ("call_b", "time", "{}")
    assert first.id != second.id
    assert events[-1].response.status == "completed"


def test_a_call_of_a_namespace_has_it_and_its_own_name() -> None:
    tool = {"type": "function", "name": "weather", "parameters": None, "strict": None}
    space = {"type": "namespace", "name": "home", "description": "of it", "tools": [tool]}
    begun = ToolCallDelta(0, "{}", 1, id="call_a", name="home__weather")
    other = ToolCallDelta(1, "{}", 1, id="call_b", name="weather")
    events = streamed(begun, other, CALLED, tools=[{"type": "web_search"}, space, tool])
    first, second = events[-1].response.output
    assert (first.namespace, first.name, second.namespace, second.name) == (
        "home", "weather", None, "weather"
    )  # fmt: skip
    added = [event.item for event in events if event.type == "response.output_item.added"]
    assert [(each.namespace, each.name) for each in added] == [
        ("home", "weather"), (None, "weather")
    ]  # fmt: skip
    assert [each.type for each in events[-1].response.tools] == ["namespace", "function"]


@pytest.mark.parametrize("given", ["auto", "disabled", None])
def test_the_truncation_is_repeated(given: Any) -> None:
    assert whole(STOP, truncation=given).truncation == (given or "disabled")


def test_text_after_a_call_is_another_message() -> None:
    output = whole(TextDelta("a", 1), CALLS[3], TextDelta("b", 1), STOP).output
    assert [item.type for item in output] == ["message", "function_call", "message"]


def test_an_empty_delta_opens_and_closes_nothing() -> None:
    parts: list[Part] = [
        TextDelta("", 1),
        thought(""),
        CALLS[0],
        TextDelta("", 1),
        *CALLS[1:3],
        CALLED,
    ]
    (call,) = whole(*parts).output
    assert call.arguments == '{"city":"Ye🦙"}'


def test_an_answer_without_anything_is_an_empty_message() -> None:
    events = streamed(STOP)
    assert types(events)[-1] == "completed"
    (message,) = events[-1].response.output
    assert message.content[0].text == ""
    assert whole(STOP).output_text == ""


@pytest.mark.parametrize(
    "parts", [[TextDelta("ab", 1)], [thought("ab")], CALLS[:2]], ids=["text", "thought", "call"]
)
def test_an_answer_that_was_cut_off_is_incomplete(parts: list[Part]) -> None:
    events = streamed(*parts, CUT_OFF)
    assert events[-1].type == "response.incomplete"
    response = events[-1].response
    assert (response.status, response.incomplete_details.reason) == (
        "incomplete", "max_output_tokens"
    )  # fmt: skip
    assert response.output[-1].status == "incomplete"
    assert whole(*parts, CUT_OFF) == response


@pytest.mark.parametrize("text", ["🦙", "a\u2028b\x85c", "\n\ndata: x\n\n", "e\u0301 مرحبا"])
def test_any_text_survives(text: str) -> None:
    events = streamed(*(TextDelta(letter, 1) for letter in text), STOP)
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == text
    assert events[-1].response.output_text == text


def test_likely_tokens_come_with_the_text_they_are_of() -> None:
    one = TokenLogprob(1, b"\xf0\x9f", -0.5, ((1, b"\xf0\x9f", -0.5), (2, b"b", float("-inf"))))
    other = TokenLogprob(3, b"\xa6\x99", -0.25, ())
    events = streamed(
        TextDelta("", 1, logprobs=(one,)),
        TextDelta("🦙", 1, logprobs=(other,)),
        STOP,
        include=["message.output_text.logprobs"],
        top_logprobs=2,
    )
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    assert [event.logprobs[0].logprob for event in deltas] == [-0.5, -0.25]
    logprobs = events[-1].response.output[0].content[0].logprobs
    assert [bytes(each.bytes) for each in logprobs] == [b"\xf0\x9f", b"\xa6\x99"]
    assert [each.logprob for each in logprobs[0].top_logprobs] == [-0.5, -9999.0]


def test_the_likely_tokens_of_a_call_make_no_message() -> None:
    token = TokenLogprob(1, b"{", -0.5, ())
    answer = whole(
        ToolCallDelta(0, "{}", 2, id="call_a", name="time"),
        TextDelta("", 0, logprobs=(token,)),
        STOP,
        include=["message.output_text.logprobs"],
    )
    assert [item.type for item in answer.output] == ["function_call"]


def test_nobody_gets_likely_tokens_unasked() -> None:
    token = TokenLogprob(1, b"a", -0.5, ())
    assert whole(TextDelta("a", 1, logprobs=(token,)), STOP).output[0].content[0].logprobs == []


def test_a_large_text_is_cut_and_no_reply_is_larger_than_it_must_be() -> None:
    text = "🦙" * (2 * LARGEST_TEXT + 1)
    replies = play(response_writer(True), [TextDelta(text, 1), STOP])
    events = parsed(raw(replies))
    deltas = [e.delta for e in events if e.type == "response.output_text.delta"]
    assert [len(delta) for delta in deltas] == [LARGEST_TEXT, LARGEST_TEXT, 1]
    assert events[-1].response.output_text == text
    sizes = [len(reply.text) for reply in replies if isinstance(reply, EventText)]
    assert max(sizes) < 2 * len(text)


def test_what_comes_at_the_same_time_is_one_reply() -> None:
    first, last = play(response_writer(True), [TextDelta("a", 1), STOP])
    assert raw([first]).count("event: ") == 5
    assert raw([last]).count("event: ") == 4


@pytest.mark.parametrize("kind", list(ERRORS_BY_CODE.values()))
def test_a_failure_in_the_middle_ends_the_stream_with_one_event(kind: type[WorkerError]) -> None:
    writer = response_writer(True)
    told = raw(play(writer, [thought("Hm."), TextDelta("Mer", 1)]))
    error = kind("It broke.")
    error.param = "input"
    said = writer.failed(error)
    assert said is not None
    *_, last = parsed(told + said)
    assert (last.type, last.response.status) == ("response.failed", "failed")
    failure = last.response.error
    assert (failure.message, failure.param, failure.worker_code) == (
        "It broke.", "input", error.code
    )  # fmt: skip
    assert [item.status for item in last.response.output] == ["completed", "incomplete"]
    assert last.response.output_text == "Mer"


def test_a_failures_code_is_one_of_openais() -> None:
    def code(error: WorkerError) -> Any:
        writer = response_writer(True)
        told = raw(play(writer, [TextDelta("a", 1)])) + str(writer.failed(error))
        return parsed(told)[-1].response.error.code

    assert code(InvalidRequest("x")) == "invalid_prompt"
    assert code(Overloaded("x")) == "rate_limit_exceeded"
    assert code(WorkerError("x")) == "server_error"


def test_a_failure_before_the_beginning_is_an_error_event() -> None:
    error = InvalidRequest("Bad.", param="input[0]")
    said = response_writer(True).failed(error)
    assert said == RESPONSES_ERRORS.event(error)
    (event,) = parsed(said)
    assert (event.type, event.code, event.message, event.param) == (
        "error", "invalid_request", "Bad.", "input[0]"
    )  # fmt: skip


def test_a_whole_answer_has_no_event_for_a_failure() -> None:
    assert response_writer(False).failed(InvalidRequest("Bad.")) is None


def client(text: str, type: str) -> OpenAI:
    answer = httpx2.Response(200, headers={"content-type": type}, text=text)
    transport = httpx2.MockTransport(lambda request: answer)
    return OpenAI(
        api_key="k", base_url="http://worker/v1", http_client=httpx2.Client(transport=transport)
    )


def test_openais_client_puts_a_stream_together() -> None:
    parts: list[Part] = [thought("Hm."), TextDelta("Mer", 1), TextDelta("haba", 1), *CALLS, CALLED]
    text = raw(play(response_writer(True), parts))
    with (
        client(text, "text/event-stream") as openai,
        openai.responses.stream(model="demo", input="Hi") as stream,
    ):
        told = [event.type for event in stream]
        response = stream.get_final_response()
    assert told[0] == "response.created"
    assert response.output_text == "Merhaba"
    assert [item.type for item in response.output] == [
        "reasoning", "message", "function_call", "function_call"
    ]  # fmt: skip


def test_what_a_response_had_may_be_sent_back() -> None:
    output = whole(thought("Hm."), TextDelta("A", 1), *CALLS, CALLED).output
    items: list[Any] = [item.model_dump(mode="json") for item in output]
    results = [
        {"type": "function_call_output", "call_id": id, "output": "x"}
        for id in ("call_a", "call_b")
    ]
    call = read_responses({"input": [*items, *results]}, id="r", deadline=None)
    turn, *rest = call.request.messages or ()
    assert (turn["reasoning_content"], turn["content"]) == ("Hm.", "A")
    assert [call["id"] for call in turn["tool_calls"]] == ["call_a", "call_b"]
    assert [each["tool_call_id"] for each in rest] == ["call_a", "call_b"]
