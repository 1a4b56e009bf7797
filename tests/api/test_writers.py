"""The writers of chats, completions and plain answers: the same parts in the form of each."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from gguf_worker.api.native import native_writer, read_native
from gguf_worker.api.openai import chat_writer, completion_writer, read_chat, read_completion
from gguf_worker.api.reading import GenerationCall
from gguf_worker.api.writing import (
    LARGEST_TEXT,
    MOST_LOGPROBS,
    ApiReply,
    Body,
    EventText,
    Heading,
    Item,
    ResponseWriter,
    cut_delta,
    warnings_field,
)
from gguf_worker.generation import Channel, TokenLogprob
from gguf_worker.providers import Ended, Finish, TextDelta, ToolCallDelta
from tests.api_doors import generation_call
from tests.fakes import USAGE

Make = Callable[[Heading, GenerationCall], ResponseWriter]

HEADING = Heading("r1", "demo", 17)
FOOTER = {"metrics": {"cold": False}}
WRITERS = [chat_writer, completion_writer, native_writer]


def render(
    make: Make,
    *texts: str,
    stream: bool = True,
    include_usage: bool = False,
    warnings: tuple[str, ...] = (),
) -> list[ApiReply]:
    footer = {"metrics": {"cold": False}, **warnings_field(warnings)}
    writer = make(HEADING, generation_call(stream=stream, include_usage=include_usage))
    replies = [reply for text in texts for reply in writer.text(TextDelta(text, 2))]
    return [*replies, *writer.finish(Finish("stop", USAGE), footer)]


def data_of(reply: ApiReply) -> dict[str, Any]:
    assert isinstance(reply, Body | Item)
    return reply.data


def text_of(reply: ApiReply) -> str:
    assert isinstance(reply, EventText)
    return reply.text


def chunks(replies: list[ApiReply]) -> list[Any]:
    text = "".join(map(text_of, replies))
    *events, done, nothing = text.split("\n\n")
    assert (done, nothing) == ("data: [DONE]", "")
    return [json.loads(each.removeprefix("data: ")) for each in events]


def test_a_chat_stream_opens_with_the_role_then_content_then_the_reason() -> None:
    opening, first, second, last = chunks(render(chat_writer, "a", "b"))
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
    first, *_ = render(chat_writer, "a", "b")
    assert isinstance(first, EventText)
    assert first.text.count("data: ") == 2


def test_an_answer_without_text_still_opens_with_the_role() -> None:
    opening, last = chunks(render(chat_writer))
    assert opening["choices"][0]["delta"]["role"] == "assistant"
    assert last["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("make", [chat_writer, completion_writer])
def test_usage_is_null_until_its_own_last_chunk(make: Make) -> None:
    *before, last = chunks(render(make, "a", include_usage=True))
    assert [each["usage"] for each in before] == [None] * len(before)
    assert last["choices"] == []
    assert last["usage"] == {
        "prompt_tokens": 7,
        "completion_tokens": 3,
        "total_tokens": 10,
        "prompt_tokens_details": {"cached_tokens": 2},
        "completion_tokens_details": {"reasoning_tokens": 1},
    }


def test_a_completion_stream_has_texts() -> None:
    first, last = chunks(render(completion_writer, "a"))
    assert first["id"] == "cmpl-r1"
    assert first["object"] == "text_completion"
    assert first["choices"][0]["text"] == "a"
    assert last["choices"][0] == {
        "index": 0, "text": "", "logprobs": None, "finish_reason": "stop", "stop_reason": None
    }  # fmt: skip


def test_a_native_stream_has_plain_objects_and_ends_with_the_cost() -> None:
    first, last = render(native_writer, "a", warnings=("w",))
    assert first == Item({"text": "a", "tokens": 2})
    assert isinstance(last, Item)
    assert last.data["text"] == ""
    assert last.data["finish_reason"] == "stop"
    assert last.data["usage"]["total_tokens"] == 10
    assert last.data["model"] == "demo"
    assert last.data["warnings"] == ["w"]
    assert last.data["metrics"] == {"cold": False}


@pytest.mark.parametrize("make", WRITERS)
def test_warnings_stand_at_the_end_of_an_answer_if_there_are_any(make: Make) -> None:
    (reply,) = render(make, "a", stream=False, warnings=("w",))
    assert data_of(reply)["warnings"] == ["w"]
    (reply,) = render(make, "a", stream=False)
    assert "warnings" not in data_of(reply)


@pytest.mark.parametrize("make", [chat_writer, completion_writer])
def test_warnings_of_a_stream_stand_in_its_last_choice(make: Make) -> None:
    *before, last = chunks(render(make, "a", warnings=("w",)))
    assert last["warnings"] == ["w"]
    assert not any("warnings" in each for each in before)


@pytest.mark.parametrize("make", WRITERS)
def test_a_whole_answer_is_the_collected_stream(make: Make) -> None:
    (reply,) = render(make, "a", "", "b", stream=False)
    assert isinstance(reply, Body)
    assert '"ab"' in json.dumps(reply.data)


@pytest.mark.parametrize("make", WRITERS)
@pytest.mark.parametrize("stream", [True, False])
def test_every_route_says_how_much_of_the_prompt_was_cached(make: Make, stream: bool) -> None:
    replies = render(make, "a", stream=stream, include_usage=True)
    data = [data_of(each) for each in replies if not isinstance(each, EventText)]
    *_, last = data or chunks(replies)
    assert last["usage"]["prompt_tokens_details"] == {"cached_tokens": 2}


def several(make: Make, *, stream: bool) -> list[ApiReply]:
    """Two answers, in turns; the second ends first, without having said anything."""
    writer = make(HEADING, generation_call(stream=stream, answers=2))
    return [
        *writer.text(TextDelta("a", 2)),
        *writer.ended(Ended("stop", 1)),
        *writer.text(TextDelta("b", 2)),
        *writer.finish(Finish("length", USAGE), FOOTER),
    ]


def test_each_of_several_answers_is_opened_and_closed_once_even_if_it_says_nothing() -> None:
    choices = [each["choices"][0] for each in chunks(several(chat_writer, stream=True))]
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


@pytest.mark.parametrize("make", WRITERS)
@pytest.mark.parametrize("stream", [True, False])
def test_the_stop_string_that_ended_an_answer_is_where_vllm_has_it(
    make: Make, stream: bool
) -> None:
    writer = make(HEADING, generation_call(stream=stream, answers=2))
    ends = (
        *writer.ended(Ended("stop", 1, "\n\n")),
        *writer.finish(Finish("length", USAGE), FOOTER),
    )
    if stream and make is not native_writer:
        choices = [each["choices"][0] for each in chunks(list(ends))]
        told = {each["index"]: each["stop_reason"] for each in choices if each["finish_reason"]}
    else:
        (reply,) = ends
        assert isinstance(reply, Body | Item)
        told = {each["index"]: each.get("stop_reason") for each in reply.data["choices"]}
    assert told == {0: None, 1: "\n\n"}


def test_a_native_answer_lists_several_beside_the_first() -> None:
    (reply,) = several(native_writer, stream=False)
    assert isinstance(reply, Body)
    assert (reply.data["text"], reply.data["finish_reason"]) == ("ab", "length")
    assert reply.data["choices"] == [
        {"index": 0, "text": "ab", "finish_reason": "length"},
        {"index": 1, "text": "", "finish_reason": "stop"},
    ]


def test_a_native_stream_of_several_tells_whose_each_text_is_and_ends_with_all_reasons() -> None:
    *items, last = several(native_writer, stream=True)
    assert items == [
        Item({"text": "a", "tokens": 2, "index": 0}), Item({"text": "b", "tokens": 2, "index": 0})
    ]  # fmt: skip
    assert isinstance(last, Item)
    assert [each["finish_reason"] for each in last.data["choices"]] == ["length", "stop"]
    assert last.data["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize("stream", [True, False])
def test_a_single_native_answer_has_neither_index_nor_list(stream: bool) -> None:
    for reply in render(native_writer, "a", stream=stream):
        assert not {"index", "choices"} & set(data_of(reply))


@pytest.mark.parametrize("letter", ["x", "ş", "👋", '"', "\\", "\x01", "\u2028"])
@pytest.mark.parametrize("make", WRITERS)
def test_no_streamed_item_reaches_a_megabyte_even_escaped_twice(make: Make, letter: str) -> None:
    text = letter * 350_000
    replies = render(make, text)
    for reply in replies:
        item = reply.text if isinstance(reply, EventText) else data_of(reply)
        assert len(json.dumps({"output": item}, ensure_ascii=False).encode()) < 1_000_000
    if make is native_writer:
        data = [data_of(reply) for reply in replies]
        assert "".join(each["text"] for each in data) == text
        assert sum(each.get("tokens", 0) for each in data) == 2
    assert len(text) > LARGEST_TEXT


# Thoughts and calls of a native answer

CALL = ToolCallDelta(0, "{}", 4, id="call_a", name="time")
THOUGHT = TextDelta("Hm.", 2, channel=Channel.REASONING)


def native(stream: bool, answers: int = 1) -> list[ApiReply]:
    writer = native_writer(HEADING, generation_call(stream=stream, answers=answers))
    replies = [*writer.text(THOUGHT), *writer.tool_call(CALL)]
    return [*replies, *writer.finish(Finish("tool_calls", USAGE), {})]


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
    writer = chat_writer(HEADING, generation_call(stream=True))
    text = "x" * (2 * LARGEST_TEXT + 1)
    replies = list(writer.tool_call(ToolCallDelta(0, text, 9, id="call_a", name="f")))
    assert len(replies) == 3
    calls = [
        each["choices"][0]["delta"]["tool_calls"][0]
        for each in chunks([*replies, *writer.finish(Finish("tool_calls", USAGE), {})])[1:-1]
    ]
    assert "".join(call["function"]["arguments"] for call in calls) == text
    assert [call.get("id") for call in calls] == ["call_a", None, None]


def test_many_logprobs_are_cut_into_items_below_the_limit() -> None:
    writer = completion_writer(HEADING, generation_call(stream=True, logprobs=True))
    many = tuple(TokenLogprob(1, b"a", -0.5) for _ in range(2 * MOST_LOGPROBS + 1))
    replies = list(writer.text(TextDelta("a" * len(many), len(many), logprobs=many)))
    told = [
        each["choices"][0]
        for each in chunks([*replies, *writer.finish(Finish("stop", USAGE), {})])[:3]
    ]
    assert "".join(choice["text"] for choice in told) == "a" * len(many)
    offsets = [choice["logprobs"]["text_offset"] for choice in told]
    assert [len(each) for each in offsets] == [MOST_LOGPROBS, MOST_LOGPROBS, 1]
    assert [at for each in offsets for at in each] == list(range(len(many)))


def test_a_native_answer_has_logprobs_where_they_are_wanted() -> None:
    writer = native_writer(HEADING, generation_call(logprobs=True))
    assert list(writer.text(TextDelta("a", 1, logprobs=(TokenLogprob(1, b"a", -0.5),)))) == []
    (reply,) = writer.finish(Finish("stop", USAGE), {})
    assert isinstance(reply, Body)
    assert reply.data["logprobs"] == [
        {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}
    ]


# Logprobs of prompts

BEGIN = TokenLogprob(1, b"<s>", None)
FIRST = TokenLogprob(5, b" Hel", -0.5, ((5, b" Hel", -0.5), (6, b"A", -1.5)))
SECOND = TokenLogprob(7, b"lo \xf0\x9f", -3.0, ((6, b"A", -0.25), (7, b"lo \xf0\x9f", -3.0)))
THIRD = TokenLogprob(8, b"\x8c\x8a!", -0.75, ())
WAVE = "Hello \N{WATER WAVE}!"


def echoed(**more: Any) -> GenerationCall:
    body = {"prompt": WAVE, "echo": True, "logprobs": 1, **more}
    return read_completion(body, id="r1", deadline=None)


def parts_of_echo() -> list[TextDelta]:
    return [
        TextDelta(WAVE, 0),
        TextDelta("", 0, prompt_logprobs=(BEGIN, FIRST)),
        TextDelta("", 0, prompt_logprobs=(SECOND, THIRD)),
        TextDelta(" ok", 1, logprobs=(TokenLogprob(9, b" ok", -0.125, ((9, b" ok", -0.125),)),)),
    ]


LISTS = {
    "tokens": ["<s>", " Hel", "lo \ufffd", "\ufffd\ufffd!", " ok"],
    "token_logprobs": [None, -0.5, -3.0, -0.75, -0.125],
    "top_logprobs": [
        None,
        {" Hel": -0.5, "A": -1.5},
        {"A": -0.25, "lo \ufffd": -3.0},
        {"\ufffd\ufffd!": -0.75},
        {" ok": -0.125},
    ],
    "text_offset": [0, 0, 3, 6, 8],
}
"""OpenAI's lists: null before the first token, and the places of tokens in the text, which has
neither what begins every text nor the space before its first word."""


def test_an_echo_has_the_logprobs_of_prompt_and_answer_in_openais_lists() -> None:
    writer = completion_writer(HEADING, echoed())
    for part in parts_of_echo():
        assert list(writer.text(part)) == []
    (body,) = writer.finish(Finish("length", USAGE), FOOTER)
    (choice,) = data_of(body)["choices"]
    assert choice["text"] == WAVE + " ok"
    assert choice["logprobs"] == LISTS
    assert "prompt_logprobs" not in choice


def test_a_streamed_echo_has_the_same_lists_in_parts() -> None:
    writer = completion_writer(HEADING, echoed(stream=True))
    replies = [reply for part in parts_of_echo() for reply in writer.text(part)]
    got = chunks([*replies, *writer.finish(Finish("length", USAGE), FOOTER)])
    choices = [choice for chunk in got for choice in chunk["choices"]]
    assert "".join(choice["text"] for choice in choices) == WAVE + " ok"
    lists = [choice["logprobs"] for choice in choices if choice["logprobs"]]
    for name, values in LISTS.items():
        assert [value for each in lists for value in each[name]] == values


def test_vllms_field_has_the_prompts_logprobs_by_token_id() -> None:
    call = echoed(echo=False, logprobs=None, prompt_logprobs=1)
    writer = completion_writer(HEADING, call)
    for part in parts_of_echo()[1:]:
        assert list(writer.text(part)) == []
    (body,) = writer.finish(Finish("length", USAGE), FOOTER)
    (choice,) = data_of(body)["choices"]
    assert choice["logprobs"] is None
    first, second, third, last = choice["prompt_logprobs"]
    assert first is None
    assert second["5"] == {"logprob": -0.5, "rank": 1, "decoded_token": " Hel"}
    assert third == {
        "6": {"logprob": -0.25, "rank": 1, "decoded_token": "A"},
        "7": {"logprob": -3.0, "rank": None, "decoded_token": "lo \ufffd"},
    }
    assert list(last) == ["8"], "the token itself, where no others were asked for"


def test_a_chat_has_the_prompts_logprobs_beside_its_choices() -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], "prompt_logprobs": 1}
    writer = chat_writer(HEADING, read_chat(body, id="r1", deadline=None))
    for part in parts_of_echo()[1:]:
        assert list(writer.text(part)) == []
    (reply,) = writer.finish(Finish("stop", USAGE), FOOTER)
    assert len(data_of(reply)["prompt_logprobs"]) == 4


@pytest.mark.parametrize("stream", [False, True])
def test_a_plain_answer_has_the_prompts_logprobs_as_those_of_a_chat(stream: bool) -> None:
    body = {"prompt": "Hi", "echo": True, "logprobs": True, "stream": stream}
    writer = native_writer(HEADING, read_native(body, id="r1", deadline=None))
    replies = [reply for part in parts_of_echo() for reply in writer.text(part)]
    replies += writer.finish(Finish("stop", USAGE), FOOTER)
    listed = [each for reply in replies for each in data_of(reply).get("prompt_logprobs", ())]
    assert [each["logprob"] for each in listed] == [None, -0.5, -3.0, -0.75]
    assert listed[0] == {"token": "<s>", "logprob": None, "bytes": list(b"<s>"), "top_logprobs": []}


def test_many_logprobs_of_a_prompt_travel_in_several_items() -> None:
    many = tuple(TokenLogprob(1, b"a", -0.5) for _ in range(2 * MOST_LOGPROBS + 1))
    delta = TextDelta("hello", 3, logprobs=many[:3], prompt_logprobs=many)
    parts = list(cut_delta(delta))
    assert all(len(part.logprobs) + len(part.prompt_logprobs) <= MOST_LOGPROBS for part in parts)
    assert sum((part.prompt_logprobs for part in parts), ()) == many
    assert sum((part.logprobs for part in parts), ()) == many[:3]
    assert "".join(part.text for part in parts) == "hello"
    assert sum(part.tokens for part in parts) == 3


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("make", WRITERS)
def test_a_stop_token_is_named_by_its_id(make: Make, stream: bool) -> None:
    writer = make(HEADING, generation_call(stream=stream))
    replies = list(writer.finish(Finish("stop", USAGE, stop=128_009), FOOTER))
    text = json.dumps([text_of(r) if isinstance(r, EventText) else data_of(r) for r in replies])
    assert "128009" in text
