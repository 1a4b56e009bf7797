"""Answers of /v1/messages, held to the `anthropic` package's own types and client."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import httpx2
import pytest
from anthropic import Anthropic, APIStatusError
from anthropic.types import Message, MessageTokensCount, RawMessageStreamEvent
from anthropic.types.shared import ErrorResponse
from pydantic import TypeAdapter

from gguf_worker.api.anthropic import (
    ANTHROPIC_ERRORS,
    messages_writer,
    read_messages,
    write_token_count,
)
from gguf_worker.api.writing import (
    LARGEST_TEXT,
    UNREADABLE,
    Body,
    EventText,
    Heading,
)
from gguf_worker.errors import ERRORS_BY_CODE, InvalidRequest, WorkerError
from gguf_worker.generation import Channel, Usage
from gguf_worker.providers import Ended, Finish, TextDelta, ToolCallDelta
from tests.api.streamed_answers import CALLED, CALLS, CUT_OFF, STOP, Part, play, raw, thought
from tests.api_doors import CARD, generation_call
from tests.fakes import USAGE

HEADING = Heading("r1", "demo", 17)
EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)


def frames(text: str) -> list[tuple[str, str]]:
    *events, nothing = text.split("\n\n")
    assert nothing == ""
    pairs = [event.split("\n") for event in events]
    return [(name.removeprefix("event: "), data.removeprefix("data: ")) for name, data in pairs]


def parsed(text: str) -> list[Any]:
    """The events, each valid and named in its head as in its data."""
    events = []
    for name, data in frames(text):
        event = EVENT.validate_json(data, strict=True)
        assert name == event.type
        events.append(event)
    return events


def streamed(*parts: Part) -> list[Any]:
    return parsed(raw(play(messages_writer(HEADING, generation_call(stream=True)), parts)))


def whole(*parts: Part) -> Any:
    (reply,) = play(messages_writer(HEADING, generation_call()), parts)
    assert isinstance(reply, Body)
    return Message.model_validate_json(json.dumps(reply.data), strict=True)


def collected(*parts: Part) -> Any:
    """The message that Anthropic's own client makes of the stream."""
    text = raw(play(messages_writer(HEADING, generation_call(stream=True)), parts))
    with ask(text).stream(**ASK) as stream:
        return stream.get_final_message()


ASK: dict[str, Any] = {
    "model": "demo",
    "max_tokens": 9,
    "messages": [{"role": "user", "content": "Hi"}],
}


def ask(text: str) -> Any:
    answer = httpx2.Response(200, headers={"content-type": "text/event-stream"}, text=text)
    transport = httpx2.MockTransport(lambda request: answer)
    client = Anthropic(
        api_key="k", base_url="http://worker", http_client=httpx2.Client(transport=transport)
    )
    return client.messages


def types(events: Sequence[Any]) -> list[str]:
    return [event.type for event in events]


def test_a_whole_message() -> None:
    message = whole(TextDelta("Mer", 1), TextDelta("haba", 2), STOP)
    assert (message.id, message.type, message.role) == ("msg_r1", "message", "assistant")
    assert (message.model, message.stop_reason, message.stop_sequence) == (
        "demo", "end_turn", None
    )  # fmt: skip
    (block,) = message.content
    assert (block.type, block.text) == ("text", "Merhaba")
    usage = message.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (5, 2, 3)
    assert usage.output_tokens_details.thinking_tokens == 1
    assert message.metrics == {"cold": False}


def test_a_stream_of_text() -> None:
    events = streamed(TextDelta("Mer", 1), TextDelta("", 1), TextDelta("haba", 1), STOP)
    assert types(events) == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert events[0].message.content == []
    assert events[0].message.stop_reason is None
    assert events[1].content_block.text == ""
    assert [event.delta.text for event in events[2:4]] == ["Mer", "haba"]
    assert [event.index for event in events[1:5]] == [0, 0, 0, 0]
    assert events[5].delta.stop_reason == "end_turn"
    assert (events[5].usage.input_tokens, events[5].usage.output_tokens) == (5, 3)


FIRST = Usage(prompt_tokens=7, completion_tokens=1, cached_tokens=2)


@pytest.mark.parametrize(
    "parts",
    [
        [TextDelta("Mer", 1, usage=FIRST), STOP],
        [TextDelta("", 1, usage=FIRST), TextDelta("Mer", 1), STOP],
        [TextDelta("Hm.", 1, channel=Channel.REASONING, usage=FIRST), TextDelta("a", 1), STOP],
        [replace(CALLS[0], usage=FIRST), *CALLS[1:], CALLED],
        [STOP],
    ],
    ids=["text", "nothing yet", "thought", "call", "nothing at all"],
)
def test_the_beginning_of_a_stream_counts_the_input(parts: list[Part]) -> None:
    usage = streamed(*parts)[0].message.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (5, 2, 0)


@pytest.mark.parametrize("stream", [False, True])
def test_a_text_has_no_citations_that_are_null(stream: bool) -> None:
    replies = play(
        messages_writer(HEADING, generation_call(stream=stream)), [TextDelta("a", 1), STOP]
    )
    assert replies
    for reply in replies:
        assert isinstance(reply, Body | EventText)
        said = reply.text if isinstance(reply, EventText) else json.dumps(reply.data)
        assert "citations" not in said


def test_thoughts_text_and_calls_are_blocks_in_their_order() -> None:
    parts: list[Part] = [thought("Hm"), thought("."), TextDelta("A", 1), *CALLS, CALLED]
    events = streamed(*parts)
    starts = [event for event in events if event.type == "content_block_start"]
    assert [(e.index, e.content_block.type) for e in starts] == [
        (0, "thinking"), (1, "text"), (2, "tool_use"), (3, "tool_use")
    ]  # fmt: skip
    stops = [event.index for event in events if event.type == "content_block_stop"]
    assert stops == [0, 1, 2, 3]
    deltas = [e.delta for e in events if e.type == "content_block_delta"]
    assert [delta.type for delta in deltas] == [
        *["thinking_delta"] * 2, "text_delta", *["input_json_delta"] * 3
    ]  # fmt: skip
    assert "".join(delta.partial_json for delta in deltas[3:5]) == '{"city":"Ye🦙"}'
    thinking, text, first, second = whole(*parts).content
    assert (thinking.thinking, thinking.signature, text.text) == ("Hm.", "", "A")
    assert (first.id, first.name, first.input) == ("call_a", "weather", {"city": "Ye🦙"})
    assert (second.id, second.name, second.input) == ("call_b", "time", {})
    assert events[-2].delta.stop_reason == whole(*parts).stop_reason == "tool_use"


def test_anthropics_client_makes_the_whole_of_the_stream() -> None:
    parts: list[Part] = [
        thought("Hm."),
        TextDelta("Mer", 1),
        TextDelta("haba 🦙", 1),
        *CALLS,
        CALLED,
    ]
    made, said = collected(*parts), whole(*parts)
    assert made.stop_reason == said.stop_reason
    assert made.usage.model_dump() == said.usage.model_dump()
    assert [b.model_dump(exclude={"parsed_output"}) for b in made.content] == [
        block.model_dump() for block in said.content
    ]


def test_an_answer_without_anything_has_no_block() -> None:
    assert types(streamed(STOP)) == ["message_start", "message_delta", "message_stop"]
    assert whole(TextDelta("", 1), STOP).content == []


@pytest.mark.parametrize(
    "parts", [[TextDelta("ab", 1)], [thought("ab")], CALLS[:2]], ids=["text", "thought", "call"]
)
def test_an_answer_that_was_cut_off_says_so(parts: list[Part]) -> None:
    assert streamed(*parts, CUT_OFF)[-2].delta.stop_reason == "max_tokens"
    assert whole(*parts, CUT_OFF).stop_reason == "max_tokens"


def test_an_answer_that_a_stop_sequence_ended_names_it() -> None:
    stopped = Finish("stop", USAGE, stop="\n\n")
    for said in (
        streamed(TextDelta("ab", 1), stopped)[-2].delta,
        whole(TextDelta("ab", 1), stopped),
        collected(TextDelta("ab", 1), stopped),
    ):
        assert (said.stop_reason, said.stop_sequence) == ("stop_sequence", "\n\n")


def test_a_call_before_a_stop_sequence_is_still_to_be_made() -> None:
    message = whole(*CALLS, Finish("tool_calls", USAGE, stop="x"))
    assert (message.stop_reason, message.stop_sequence) == ("tool_use", None)


@pytest.mark.parametrize("text", ['{"city":', "[1]", "null", '{"a":1}x'])
def test_arguments_that_are_no_object_are_not_lost(text: str) -> None:
    call = ToolCallDelta(0, text, 1, id="c", name="f")
    (block,) = whole(call, CUT_OFF).content
    assert block.input == {UNREADABLE: text}


def test_a_call_without_arguments_has_an_empty_input() -> None:
    (block,) = whole(CALLS[0], CALLED).content
    assert block.input == {}


@pytest.mark.parametrize("text", ["🦙", "a\u2028b\x85c", "\n\ndata: x\n\n", "e\u0301 مرحبا"])
def test_any_text_survives(text: str) -> None:
    assert collected(*(TextDelta(letter, 1) for letter in text), STOP).content[0].text == text


def test_an_empty_delta_opens_and_closes_nothing() -> None:
    parts: list[Part] = [
        TextDelta("", 1),
        thought(""),
        CALLS[0],
        TextDelta("", 1),
        *CALLS[1:3],
        CALLED,
    ]
    (call,) = collected(*parts).content
    assert call.input == {"city": "Ye🦙"}


def test_a_large_text_is_cut() -> None:
    events = streamed(TextDelta("a" * (LARGEST_TEXT + 1), 1), STOP)
    deltas = [event.delta.text for event in events if event.type == "content_block_delta"]
    assert [len(delta) for delta in deltas] == [LARGEST_TEXT, 1]


def test_what_comes_at_the_same_time_is_one_reply() -> None:
    first, last = play(
        messages_writer(HEADING, generation_call(stream=True)), [TextDelta("a", 1), STOP]
    )
    assert raw([first]).count("event: ") == raw([last]).count("event: ") == 3


@pytest.mark.parametrize("kind", list(ERRORS_BY_CODE.values()))
@pytest.mark.parametrize("begun", [True, False])
def test_a_failure_ends_the_stream_with_one_event(kind: type[WorkerError], begun: bool) -> None:
    writer = messages_writer(HEADING, generation_call(stream=True))
    told = raw(play(writer, [TextDelta("Mer", 1)] if begun else []))
    error = kind("It broke.")
    error.param = "messages"
    said = writer.failed(error)
    assert said == ANTHROPIC_ERRORS.event(error)
    *_, (name, data) = frames(told + said)
    assert name == "error"
    failure = ErrorResponse.model_validate_json(data, strict=True).error
    assert failure.message == "It broke."
    assert json.loads(data)["error"]["code"] == error.code
    assert json.loads(data)["error"]["param"] == "messages"
    with pytest.raises(APIStatusError, match="It broke"):
        list(ask(told + said).create(**ASK, stream=True))


def test_a_whole_answer_has_no_event_for_a_failure() -> None:
    assert messages_writer(HEADING, generation_call()).failed(InvalidRequest("Bad.")) is None


def test_a_message_is_one_answer() -> None:
    with pytest.raises(RuntimeError):
        messages_writer(HEADING, generation_call(stream=True)).ended(Ended("stop", 0))


async def test_a_count_of_tokens() -> None:
    data = await write_token_count(range(12), generation_call(), CARD)
    count = MessageTokensCount.model_validate_json(json.dumps(data), strict=True)
    assert count.input_tokens == 12


def test_what_a_message_had_may_be_sent_back() -> None:
    message = whole(thought("Hm."), TextDelta("A", 1), *CALLS, CALLED)
    content = [block.model_dump(mode="json") for block in message.content]
    results = [
        {"type": "tool_result", "tool_use_id": id, "content": "x"} for id in ("call_a", "call_b")
    ]
    messages = [
        {"role": "assistant", "content": content},
        {"role": "user", "content": results},
    ]
    call = read_messages({"max_tokens": 9, "messages": messages}, id="r", deadline=None)
    turn, *rest = call.request.messages or ()
    assert (turn["reasoning_content"], turn["content"]) == ("Hm.", "A")
    assert [call["id"] for call in turn["tool_calls"]] == ["call_a", "call_b"]
    assert [each["tool_call_id"] for each in rest] == ["call_a", "call_b"]
