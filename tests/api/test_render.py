from __future__ import annotations

import json
from typing import Any

import pytest

from gguf_worker.api.render import (
    LARGEST_TEXT,
    MOST_LOGPROBS,
    Body,
    Event,
    Heading,
    Item,
    Kind,
    Reply,
    event,
    metrics_of,
    wire,
)
from gguf_worker.generation import Channel, TokenLogprob, Usage
from gguf_worker.providers import Ended, Finish, TextDelta, ToolCallDelta
from tests.fakes import USAGE


def render(
    kind: Kind,
    *texts: str,
    stream: bool = True,
    include_usage: bool = False,
    warnings: tuple[str, ...] = (),
) -> list[Reply]:
    form = wire(
        Heading(kind, "r1", "demo", 17, warnings), stream=stream, include_usage=include_usage
    )
    replies = [reply for text in texts for reply in form.piece(TextDelta(text, 2))]
    return [*replies, *form.finish(Finish("stop", USAGE), {"cold": False})]


def chunks(replies: list[Reply]) -> list[Any]:
    assert all(isinstance(reply, Event) for reply in replies)
    text = "".join(reply.text for reply in replies)  # type: ignore[union-attr]
    *events, done, nothing = text.split("\n\n")
    assert (done, nothing) == ("data: [DONE]", "")
    return [json.loads(each.removeprefix("data: ")) for each in events]


def test_a_chat_stream_opens_with_the_role_then_content_then_the_reason() -> None:
    opening, first, second, last = chunks(render(Kind.CHAT, "a", "b"))
    assert opening["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert first["choices"][0]["delta"] == {"content": "a"}
    assert second["choices"][0]["delta"] == {"content": "b"}
    assert last["choices"][0] == {
        "index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop", "stop_reason": None
    }  # fmt: skip
    assert {each["id"] for each in (opening, first, second, last)} == {"chatcmpl-r1"}
    assert {each["object"] for each in (opening, last)} == {"chat.completion.chunk"}
    assert "usage" not in last
    assert last["metrics"] == {"cold": False}


def test_role_and_first_text_come_in_one_reply() -> None:
    first, *_ = render(Kind.CHAT, "a", "b")
    assert isinstance(first, Event)
    assert first.text.count("data: ") == 2


def test_an_answer_without_text_still_opens_with_the_role() -> None:
    opening, last = chunks(render(Kind.CHAT))
    assert opening["choices"][0]["delta"]["role"] == "assistant"
    assert last["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("kind", [Kind.CHAT, Kind.COMPLETION])
def test_usage_is_null_until_its_own_last_chunk(kind: Kind) -> None:
    *before, last = chunks(render(kind, "a", include_usage=True))
    assert [each["usage"] for each in before] == [None] * len(before)
    assert last["choices"] == []
    assert last["usage"] == {
        "prompt_tokens": 7,
        "completion_tokens": 3,
        "total_tokens": 10,
        "prompt_tokens_details": {"cached_tokens": 2},
    }


def test_a_completion_stream_has_texts() -> None:
    first, last = chunks(render(Kind.COMPLETION, "a"))
    assert first["id"] == "cmpl-r1"
    assert first["object"] == "text_completion"
    assert first["choices"][0]["text"] == "a"
    assert last["choices"][0] == {
        "index": 0, "text": "", "logprobs": None, "finish_reason": "stop", "stop_reason": None
    }  # fmt: skip


def test_a_native_stream_has_plain_objects_and_ends_with_the_cost() -> None:
    first, last = render(Kind.NATIVE, "a", warnings=("w",))
    assert first == Item({"text": "a", "tokens": 2})
    assert isinstance(last, Item)
    assert last.data["text"] == ""
    assert last.data["finish_reason"] == "stop"
    assert last.data["usage"]["total_tokens"] == 10
    assert last.data["model"] == "demo"
    assert last.data["warnings"] == ["w"]
    assert last.data["metrics"] == {"cold": False}


def test_a_native_answer_has_no_warnings_field_without_warnings() -> None:
    (reply,) = render(Kind.NATIVE, "a", stream=False)
    assert isinstance(reply, Body)
    assert "warnings" not in reply.data


@pytest.mark.parametrize("kind", list(Kind))
def test_a_whole_answer_is_the_collected_stream(kind: Kind) -> None:
    (reply,) = render(kind, "a", "", "b", stream=False)
    assert isinstance(reply, Body)
    assert '"ab"' in json.dumps(reply.data)


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("stream", [True, False])
def test_every_route_says_how_much_of_the_prompt_was_cached(kind: Kind, stream: bool) -> None:
    replies = render(kind, "a", stream=stream, include_usage=True)
    data = [each.data for each in replies if not isinstance(each, Event)]  # type: ignore[union-attr]
    *_, last = data or chunks(replies)
    assert last["usage"]["prompt_tokens_details"] == {"cached_tokens": 2}


def several(kind: Kind, *, stream: bool) -> list[Reply]:
    """Two answers, in turns; the second ends first, without having said anything."""
    form = wire(Heading(kind, "r1", "demo", 17), stream=stream, include_usage=False, answers=2)
    return [
        *form.piece(TextDelta("a", 2)),
        *form.ended(Ended("stop", 1)),
        *form.piece(TextDelta("b", 2)),
        *form.finish(Finish("length", USAGE), {"cold": False}),
    ]


def test_each_of_several_answers_is_opened_and_closed_once_even_if_it_says_nothing() -> None:
    choices = [each["choices"][0] for each in chunks(several(Kind.CHAT, stream=True))]
    told = [(each["index"], each["delta"], each["finish_reason"]) for each in choices]
    opening = {"role": "assistant", "content": ""}
    assert told == [
        (0, opening, None),
        (0, {"content": "a"}, None),
        (1, opening, None),
        (1, {}, "stop"),
        (0, {"content": "b"}, None),
        (0, {}, "length"),
    ]


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("stream", [True, False])
def test_the_stop_string_that_ended_an_answer_is_told_where_vllm_tells_it(
    kind: Kind, stream: bool
) -> None:
    form = wire(Heading(kind, "r1", "demo", 17), stream=stream, include_usage=False, answers=2)
    ends = (
        *form.ended(Ended("stop", 1, "\n\n")),
        *form.finish(Finish("length", USAGE), {"cold": False}),
    )
    if stream and kind is not Kind.NATIVE:
        choices = [each["choices"][0] for each in chunks(list(ends))]
        told = {each["index"]: each["stop_reason"] for each in choices if each["finish_reason"]}
    else:
        (reply,) = ends
        assert isinstance(reply, Body | Item)
        told = {each["index"]: each.get("stop_reason") for each in reply.data["choices"]}
    assert told == {0: None, 1: "\n\n"}


def test_a_native_answer_lists_several_beside_the_first() -> None:
    (reply,) = several(Kind.NATIVE, stream=False)
    assert isinstance(reply, Body)
    assert (reply.data["text"], reply.data["finish_reason"]) == ("ab", "length")
    assert reply.data["choices"] == [
        {"index": 0, "text": "ab", "finish_reason": "length"},
        {"index": 1, "text": "", "finish_reason": "stop"},
    ]


def test_a_native_stream_of_several_tells_whose_each_text_is_and_ends_with_all_reasons() -> None:
    *items, last = several(Kind.NATIVE, stream=True)
    assert items == [
        Item({"text": "a", "tokens": 2, "index": 0}), Item({"text": "b", "tokens": 2, "index": 0})
    ]  # fmt: skip
    assert isinstance(last, Item)
    assert [each["finish_reason"] for each in last.data["choices"]] == ["length", "stop"]
    assert last.data["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize("stream", [True, False])
def test_a_single_native_answer_has_neither_index_nor_list(stream: bool) -> None:
    for reply in render(Kind.NATIVE, "a", stream=stream):
        assert not {"index", "choices"} & set(reply.data)  # type: ignore[union-attr]


@pytest.mark.parametrize("letter", ["x", "ş", "👋", '"', "\\", "\x01", "\u2028"])
@pytest.mark.parametrize("kind", list(Kind))
def test_no_streamed_item_reaches_a_megabyte_even_escaped_twice(kind: Kind, letter: str) -> None:
    text = letter * 350_000
    replies = render(kind, text)
    for reply in replies:
        item = reply.text if isinstance(reply, Event) else reply.data  # type: ignore[union-attr]
        assert len(json.dumps({"output": item}, ensure_ascii=False).encode()) < 1_000_000
    if kind is Kind.NATIVE:
        data = [reply.data for reply in replies]  # type: ignore[union-attr]
        assert "".join(each["text"] for each in data) == text
        assert sum(each.get("tokens", 0) for each in data) == 2
    assert len(text) > LARGEST_TEXT


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\r\n"])
def test_no_text_can_break_an_event_into_lines(separator: str) -> None:
    data = {"text": f"ş{separator}b"}
    text = event(data)
    assert len(text.splitlines()) == 2
    assert json.loads(text.removeprefix("data: ")) == data


def test_text_of_other_alphabets_is_not_blown_up() -> None:
    assert "日本語" in event({"text": "日本語"})


def test_figures_are_rounded_and_never_nan() -> None:
    usage = Usage(5, 11, queue_seconds=0.00123456, prefill_seconds=float("nan"), seconds=2.0)
    assert metrics_of(usage, ttft_seconds=None, seconds=1.23456, cold={"load": 1.0005}) == {
        "queue_ms": 1.2,
        "prefill_ms": None,
        "ttft_ms": None,
        "total_ms": 1234.6,
        "tokens_per_second": 5.0,
        "cold": True,
        "cold_start_seconds": {"load": 1.0},
    }


# Thoughts and calls of a native answer

CALL = ToolCallDelta(0, "{}", 4, id="call_a", name="time")
THOUGHT = TextDelta("Hm.", 2, channel=Channel.REASONING)


def native(stream: bool, answers: int = 1) -> list[Reply]:
    heading = Heading(Kind.NATIVE, "r1", "demo", 17)
    form = wire(heading, stream=stream, include_usage=False, answers=answers)
    replies = [*form.piece(THOUGHT), *form.call(CALL)]
    return [*replies, *form.finish(Finish("tool_calls", USAGE), {})]


def test_a_native_answer_has_its_thoughts_and_calls_beside_the_text() -> None:
    (reply,) = native(stream=False)
    assert isinstance(reply, Body)
    assert (reply.data["text"], reply.data["reasoning"]) == ("", "Hm.")
    function = {"name": "time", "arguments": "{}"}
    assert reply.data["tool_calls"] == [{"id": "call_a", "type": "function", "function": function}]
    assert reply.data["finish_reason"] == "tool_calls"


def test_a_native_stream_tells_thoughts_and_calls_apart_from_text() -> None:
    thought, call, last = native(stream=True)
    assert thought == Item({"reasoning": "Hm.", "tokens": 2})
    assert isinstance(call, Item)
    (delta,) = call.data["tool_calls"]
    assert (delta["index"], delta["id"], delta["function"]["name"]) == (0, "call_a", "time")
    assert call.data["tokens"] == 4
    assert isinstance(last, Item)
    assert last.data["tool_calls"][0]["function"]["arguments"] == "{}"


def test_of_several_native_answers_each_call_says_whose_it_is() -> None:
    thought, call, _ = native(stream=True, answers=2)
    assert isinstance(thought, Item)
    assert isinstance(call, Item)
    assert (thought.data["index"], call.data["index"]) == (0, 0)


def test_long_arguments_are_cut_into_items_below_the_limit() -> None:
    form = wire(Heading(Kind.CHAT, "r1", "demo", 17), stream=True, include_usage=False)
    text = "x" * (2 * LARGEST_TEXT + 1)
    replies = list(form.call(ToolCallDelta(0, text, 9, id="call_a", name="f")))
    assert len(replies) == 3
    calls = [
        each["choices"][0]["delta"]["tool_calls"][0]
        for each in chunks([*replies, *form.finish(Finish("tool_calls", USAGE), {})])[1:-1]
    ]
    assert "".join(call["function"]["arguments"] for call in calls) == text
    assert [call.get("id") for call in calls] == ["call_a", None, None]


def test_many_logprobs_are_cut_into_items_below_the_limit() -> None:
    form = wire(
        Heading(Kind.COMPLETION, "r1", "demo", 17), stream=True, include_usage=False, logprobs=True
    )
    many = tuple(TokenLogprob(1, b"a", -0.5) for _ in range(2 * MOST_LOGPROBS + 1))
    replies = list(form.piece(TextDelta("a" * len(many), len(many), logprobs=many)))
    told = [
        each["choices"][0]
        for each in chunks([*replies, *form.finish(Finish("stop", USAGE), {})])[:3]
    ]
    assert "".join(choice["text"] for choice in told) == "a" * len(many)
    offsets = [choice["logprobs"]["text_offset"] for choice in told]
    assert [len(each) for each in offsets] == [MOST_LOGPROBS, MOST_LOGPROBS, 1]
    assert [at for each in offsets for at in each] == list(range(len(many)))


def test_a_native_answer_has_logprobs_where_they_are_wanted() -> None:
    heading = Heading(Kind.NATIVE, "r1", "demo", 17)
    form = wire(heading, stream=False, include_usage=False, logprobs=True)
    assert list(form.piece(TextDelta("a", 1, logprobs=(TokenLogprob(1, b"a", -0.5),)))) == []
    (reply,) = form.finish(Finish("stop", USAGE), {})
    assert isinstance(reply, Body)
    assert reply.data["logprobs"] == [
        {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}
    ]
