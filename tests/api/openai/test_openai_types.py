"""Answers of the OpenAI routes, held to the `openai` package's own types."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from openai.pagination import SyncPage
from openai.types import Completion, CompletionUsage, ErrorObject, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

from gguf_worker.api.writing import ApiReply, Body, Failed, error_object
from gguf_worker.errors import ContextLengthExceeded
from gguf_worker.generation import Channel, TokenLogprob
from gguf_worker.providers import Finish, TextDelta, ToolCallDelta
from tests.api_doors import Bench, call, chat, completion, sse
from tests.fakes import USAGE, ScriptedProvider, answers, text_deltas


def valid(kind: type[BaseModel], data: Any) -> Any:
    """A strict reading of JSON: the client itself builds its objects without a check."""
    return kind.model_validate_json(json.dumps(data), strict=True)


def whole(replies: list[ApiReply]) -> Any:
    (reply,) = replies
    assert isinstance(reply, Body)
    return reply.data


def events(replies: list[ApiReply]) -> list[Any]:
    *data, done, _ = sse(replies).split("\n\n")
    assert done == "data: [DONE]"
    return [json.loads(each.removeprefix("data: ")) for each in data]


def by_index(chunks: list[Any]) -> dict[int, list[Any]]:
    """The choices of a stream, which holds one a chunk, by the answer they are of."""
    choices: dict[int, list[Any]] = {}
    for chunk in chunks:
        for choice in chunk.choices:
            choices.setdefault(choice.index, []).append(choice)
    return choices


def several() -> Bench:
    return Bench(ScriptedProvider(answers("ab", "cdef", "g")))


def bench() -> Bench:
    return Bench(ScriptedProvider(text_deltas("Mer", "haba")))


async def test_a_chat_completion() -> None:
    answer = valid(ChatCompletion, whole(await bench().ask(chat())))
    assert answer.choices[0].message.content == "Merhaba"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.created == 1_800_000_000
    assert valid(CompletionUsage, answer.usage.model_dump()).total_tokens == 10
    assert answer.usage.prompt_tokens_details.cached_tokens == 2
    assert answer.usage.completion_tokens_details.reasoning_tokens == 1


@pytest.mark.parametrize("include_usage", [True, False])
async def test_a_chat_stream(include_usage: bool) -> None:
    call = chat(stream=True, stream_options={"include_usage": include_usage})
    chunks = [valid(ChatCompletionChunk, each) for each in events(await bench().ask(call))]
    deltas = [each.choices[0].delta for each in chunks if each.choices]
    assert deltas[0].role == "assistant"
    assert "".join(delta.content or "" for delta in deltas) == "Merhaba"
    assert [each.usage.total_tokens for each in chunks if each.usage] == [10] * include_usage
    assert len({each.id for each in chunks}) == 1


async def test_a_completion() -> None:
    answer = valid(Completion, whole(await bench().ask(completion())))
    assert answer.choices[0].text == "Merhaba"
    assert answer.usage.completion_tokens == 3


async def test_a_completion_stream() -> None:
    # The package's type for a chunk of a completion is that of a whole one, where the reason of
    # each choice is said to be there always; its own API sends null until the last chunk.
    *before, last = events(await bench().ask(completion(stream=True)))
    assert [each["choices"][0]["finish_reason"] for each in before] == [None, None]
    for each in before:
        each["choices"][0]["finish_reason"] = "stop"
    texts = [valid(Completion, each).choices[0].text for each in [*before, last]]
    assert texts == ["Mer", "haba", ""]


async def test_several_chat_completions() -> None:
    answer = valid(ChatCompletion, whole(await several().ask(chat(n=3))))
    said = [(each.index, each.message.content, each.finish_reason) for each in answer.choices]
    assert said == [(0, "ab", "stop"), (1, "cdef", "length"), (2, "g", "stop")]
    assert answer.usage.total_tokens == 10


async def test_several_completions() -> None:
    answer = valid(Completion, whole(await several().ask(completion(n=3))))
    said = [(each.index, each.text, each.finish_reason) for each in answer.choices]
    assert said == [(0, "ab", "stop"), (1, "cdef", "length"), (2, "g", "stop")]


async def test_a_stream_of_several_chat_completions() -> None:
    call = chat(n=3, stream=True, stream_options={"include_usage": True})
    data = events(await several().ask(call))
    chunks = [valid(ChatCompletionChunk, each) for each in data]
    choices = by_index(chunks)
    for index, text, reason in ((0, "ab", "stop"), (1, "cdef", "length"), (2, "g", "stop")):
        assert [each.delta.role for each in choices[index]] == (
            ["assistant"] + [None] * (len(text) + 1)
        )
        assert "".join(each.delta.content or "" for each in choices[index]) == text
        assert [each.finish_reason for each in choices[index]] == [None] * (len(text) + 1) + [
            reason
        ]
    texts = [each.choices[0].delta.content for each in chunks if each.choices]
    assert "".join(text or "" for text in texts) == "acgbdef"
    assert [each.usage.total_tokens for each in chunks if each.usage] == [10]
    assert chunks[-1].usage.prompt_tokens_details.cached_tokens == 2
    assert ["metrics" in each for each in data] == [False] * (len(data) - 2) + [True, False]


async def test_a_stream_of_several_completions() -> None:
    call = completion(n=3, stream=True, stream_options={"include_usage": True})
    data = events(await several().ask(call))
    reasons: dict[int, list[Any]] = {}
    for choice in (choice for each in data for choice in each["choices"]):
        reasons.setdefault(choice["index"], []).append(choice["finish_reason"])
        choice["finish_reason"] = "stop"
    assert reasons == {
        0: [None, None, "stop"], 1: [None, None, None, None, "length"], 2: [None, "stop"]
    }  # fmt: skip
    choices = by_index([valid(Completion, each) for each in data])
    assert {index: "".join(each.text for each in own) for index, own in choices.items()} == {
        0: "ab", 1: "cdef", 2: "g"
    }  # fmt: skip
    assert data[-1]["usage"]["prompt_tokens_details"] == {"cached_tokens": 2}


async def test_the_models() -> None:
    data = whole(await bench().ask(call("/v1/models")))
    page = valid(SyncPage[Model], data)
    assert [model.id for model in page.data] == ["demo"]
    assert valid(Model, data["data"][0]).owned_by == "gguf-worker"


async def test_an_error() -> None:
    (reply,) = await Bench(
        ScriptedProvider(ContextLengthExceeded("Too long.", param="messages"))
    ).ask(chat())
    assert isinstance(reply, Failed)
    error = valid(ErrorObject, error_object(reply.error)["error"])
    assert (error.code, error.param) == ("context_length_exceeded", "messages")


TOP = ((3, b"Mer", -0.25), (4, b"\xf0\x9f", -2.0))
LOGPROBS = (TokenLogprob(3, b"Mer", -0.25, TOP), TokenLogprob(4, b"\xf0\x9f", -math.inf, ()))
FINISH = Finish("stop", USAGE)


def spoken() -> Bench:
    return Bench(ScriptedProvider([TextDelta("Mer\ufffd", 2, logprobs=LOGPROBS), FINISH]))


def calling() -> Bench:
    """An answer that thinks, says a word, and calls two tools."""
    thought, word = TextDelta("Hm.", 1, channel=Channel.REASONING), TextDelta("So:", 1)
    calls = [
        ToolCallDelta(0, "", 3, id="call_a", name="weather"),
        ToolCallDelta(0, '{"city":', 1),
        ToolCallDelta(0, '"Köln"}', 1),
        ToolCallDelta(1, "{}", 2, id="call_b", name="time"),
    ]
    return Bench(ScriptedProvider([thought, word, *calls, Finish("tool_calls", USAGE)]))


async def test_a_chat_with_thoughts_and_calls() -> None:
    answer = valid(ChatCompletion, whole(await calling().ask(chat())))
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "So:"
    assert choice.message.reasoning_content == "Hm."
    calls = [
        (call.id, call.function.name, call.function.arguments) for call in choice.message.tool_calls
    ]
    assert calls == [("call_a", "weather", '{"city":"Köln"}'), ("call_b", "time", "{}")]


async def test_a_chat_that_only_calls_has_no_content() -> None:
    call_piece = ToolCallDelta(0, "{}", 1, id="call_a", name="time")
    bench = Bench(ScriptedProvider([call_piece, Finish("tool_calls", USAGE)]))
    answer = valid(ChatCompletion, whole(await bench.ask(chat())))
    assert answer.choices[0].message.content is None


async def test_a_chat_stream_with_thoughts_and_calls() -> None:
    data = events(await calling().ask(chat(stream=True)))
    chunks = [valid(ChatCompletionChunk, each) for each in data]
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert [delta.content for delta in deltas] == ["", None, "So:", None, None, None, None, None]
    assert deltas[1].reasoning_content == "Hm."
    calls = [call for delta in deltas for call in delta.tool_calls or ()]
    assert [(call.index, call.id, call.type) for call in calls] == [
        (0, "call_a", "function"), (0, None, None), (0, None, None), (1, "call_b", "function")
    ]  # fmt: skip
    assert [call.function.name for call in calls] == ["weather", None, None, "time"]
    first = "".join(call.function.arguments for call in calls if call.index == 0)
    assert json.loads(first) == {"city": "Köln"}
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "tool_calls"


@pytest.mark.parametrize("stream", [False, True])
async def test_the_logprobs_of_a_chat(stream: bool) -> None:
    replies = await spoken().ask(chat(logprobs=True, top_logprobs=2, stream=stream))
    if stream:
        chunks = [valid(ChatCompletionChunk, each) for each in events(replies)]
        (logprobs,) = [c.choices[0].logprobs for c in chunks if c.choices[0].logprobs]
    else:
        logprobs = valid(ChatCompletion, whole(replies)).choices[0].logprobs
    first, second = logprobs.content
    assert (first.token, first.logprob, first.bytes) == ("Mer", -0.25, list(b"Mer"))
    assert [(top.token, top.logprob) for top in first.top_logprobs] == [
        ("Mer", -0.25),
        ("\ufffd", -2),
    ]
    assert (second.token, second.logprob, second.top_logprobs) == ("\ufffd", -9999.0, [])
    assert second.bytes == [0xF0, 0x9F]


async def test_the_logprobs_of_a_completion() -> None:
    answer = valid(Completion, whole(await spoken().ask(completion(logprobs=2))))
    logprobs = answer.choices[0].logprobs
    assert logprobs.tokens == ["Mer", "\ufffd"]
    assert logprobs.token_logprobs == [-0.25, -9999.0]
    assert logprobs.top_logprobs == [{"Mer": -0.25, "\ufffd": -2.0}, {"\ufffd": -9999.0}]
    assert logprobs.text_offset == [0, 3]


async def test_the_offsets_of_a_streamed_completion_go_on() -> None:
    piece = TextDelta("Mer", 1, logprobs=LOGPROBS[:1])
    bench = Bench(ScriptedProvider([piece, piece, FINISH]))
    first, second, _ = events(await bench.ask(completion(logprobs=0, stream=True)))
    assert first["choices"][0]["logprobs"]["text_offset"] == [0]
    assert second["choices"][0]["logprobs"]["text_offset"] == [3]


async def test_logprobs_that_nobody_asked_for_are_null() -> None:
    answer = valid(ChatCompletion, whole(await spoken().ask(chat())))
    assert answer.choices[0].logprobs is None
