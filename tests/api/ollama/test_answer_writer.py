"""Ollama's answers: one object or a stream of lines, that are the same answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from gguf_worker.api.ollama import (
    CHAT_LINES,
    GENERATE_LINES,
    OLLAMA_ERRORS,
    chat_lines_writer,
    generate_lines_writer,
)
from gguf_worker.api.writing import LARGEST_TEXT, UNREADABLE, Body, Heading
from gguf_worker.errors import ERRORS_BY_CODE, InvalidRequest
from gguf_worker.generation import TokenLogprob, Usage
from gguf_worker.providers import Ended, Finish, TextDelta, ToolCallDelta
from tests.api.streamed_answers import CALLED, CALLS, CUT_OFF, STOP, Part, play, raw, thought
from tests.api_doors import generation_call

CHAT = Heading("r1", "demo", 17, {"messages": [{"role": "user", "content": "Hi"}]})
PROMPT = Heading("r1", "demo", 17, {"prompt": "Hi"})
HEAD = {"model": "demo", "created_at": "1970-01-01T00:00:17Z"}
ENDING = {
    "total_duration": 130_000_000,
    "load_duration": 10_000_000,
    "prompt_eval_count": 7,
    "prompt_eval_duration": 20_000_000,
    "eval_count": 3,
    "eval_duration": 100_000_000,
    "metrics": {"cold": False},
}
LOGPROB = TokenLogprob(1, b"Hi", -0.5, ((1, b"Hi", -0.5),))


def written(heading: Heading, parts: Sequence[Part], **form: bool) -> Any:
    make = chat_lines_writer if "messages" in heading.body else generate_lines_writer
    return play(make(heading, generation_call(**form)), parts)


def lines(*parts: Part, heading: Heading = CHAT, logprobs: bool = False) -> list[dict[str, Any]]:
    text = raw(written(heading, parts, stream=True, logprobs=logprobs))
    assert text.endswith("\n")
    # As httpx cuts a stream: at every separator that Unicode knows.
    return [json.loads(line) for line in text.splitlines()]


def whole(*parts: Part, heading: Heading = CHAT, logprobs: bool = False) -> dict[str, Any]:
    (reply,) = written(heading, parts, stream=False, logprobs=logprobs)
    assert isinstance(reply, Body)
    return reply.data


def test_a_chat_comes_in_lines_and_the_last_one_says_so() -> None:
    first, second, last = lines(TextDelta("He", 1), TextDelta("y", 1), STOP)
    assert first == {**HEAD, "message": {"role": "assistant", "content": "He"}, "done": False}
    assert second["message"]["content"] == "y"
    empty = {"message": {"role": "assistant", "content": ""}}
    assert last == {**HEAD, **empty, "done": True, "done_reason": "stop", **ENDING}


def test_a_whole_chat_is_its_last_line_with_the_text() -> None:
    data = whole(thought("Hm"), TextDelta("Hey", 1), CUT_OFF)
    message = {"role": "assistant", "content": "Hey", "thinking": "Hm"}
    assert data == {**HEAD, "message": message, "done": True, "done_reason": "length", **ENDING}


def test_a_prompts_answer_is_a_response() -> None:
    first, second, last = lines(thought("Hm"), TextDelta("Hey", 1), STOP, heading=PROMPT)
    assert first == {**HEAD, "response": "", "thinking": "Hm", "done": False}
    assert second == {**HEAD, "response": "Hey", "done": False}
    assert (last["response"], last["done"]) == ("", True)
    data = whole(thought("Hm"), TextDelta("Hey", 1), STOP, heading=PROMPT)
    assert (data["response"], data["thinking"]) == ("Hey", "Hm")


def test_a_call_comes_whole_and_its_arguments_are_an_object() -> None:
    parts: list[Part] = [TextDelta("So:", 1), *CALLS, CALLED]
    weather = {"index": 0, "name": "weather", "arguments": {"city": "Ye🦙"}}
    time = {"index": 1, "name": "time", "arguments": {}}
    calls = [{"id": "call_a", "function": weather}, {"id": "call_b", "function": time}]
    text, first, second, last = lines(*parts)
    assert text["message"] == {"role": "assistant", "content": "So:"}
    assert [first["message"]["tool_calls"], second["message"]["tool_calls"]] == [
        [calls[0]],
        [calls[1]],
    ]
    assert last["done_reason"] == "stop"
    assert whole(*parts)["message"]["tool_calls"] == calls


def test_a_call_stands_before_the_text_that_follows_it() -> None:
    call, text, _ = lines(*CALLS[:3], TextDelta("Wait.", 1), STOP)
    assert "tool_calls" in call["message"]
    assert text["message"]["content"] == "Wait."


@pytest.mark.parametrize("text", ['{"city": "Ye', "[1]", "null", "{", "[" * 2000])
def test_arguments_that_are_no_object_are_kept_as_text(text: str) -> None:
    parts: list[Part] = [CALLS[0], ToolCallDelta(0, text, 1), CUT_OFF]
    call, last = lines(*parts)
    (written,) = call["message"]["tool_calls"]
    assert written["function"]["arguments"] == {UNREADABLE: text}
    assert last["done_reason"] == "length"
    assert whole(*parts)["message"]["tool_calls"] == [written]


def test_logprobs_stand_beside_the_text() -> None:
    parts: list[Part] = [TextDelta("Hi", 1, logprobs=(LOGPROB,)), STOP]
    first, _ = lines(*parts, logprobs=True)
    (token,) = first["logprobs"]
    assert (token["token"], token["logprob"], token["bytes"]) == ("Hi", -0.5, [72, 105])
    assert token["top_logprobs"][0]["token"] == "Hi"
    assert whole(*parts, logprobs=True)["logprobs"] == [token]
    assert "logprobs" not in whole(*parts)


def test_a_delta_without_text_has_no_line() -> None:
    assert len(lines(TextDelta("", 1), TextDelta("a", 1), STOP)) == 2


def test_no_line_is_too_large_for_an_item() -> None:
    parts = lines(TextDelta("a" * (2 * LARGEST_TEXT + 1), 1), STOP)
    assert [len(each["message"]["content"]) for each in parts] == [LARGEST_TEXT] * 2 + [1, 0]


def test_no_text_can_end_a_line() -> None:
    odd = "a\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029z"
    first, _ = lines(TextDelta(odd, 1), STOP)
    assert first["message"]["content"] == odd


def test_no_duration_is_nought_as_clients_divide_by_it() -> None:
    data = whole(TextDelta("a", 1), Finish("stop", Usage(1, 1)))
    assert all(value > 0 for name, value in data.items() if name.endswith("_duration"))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({}, "load"),
        ({"keep_alive": "5m"}, "load"),
        ({"keep_alive": 0}, "unload"),
        ({"keep_alive": "0s"}, "unload"),
    ],
)
@pytest.mark.parametrize("question", ["messages", "prompt"])
def test_an_answer_to_no_question_says_only_that_the_model_is_there(
    body: dict[str, Any], reason: str, question: str
) -> None:
    heading = Heading("r1", "demo", 17, {question: None, **body})
    parts: list[Part] = [TextDelta("Hey", 1), CUT_OFF]
    (line,) = lines(*parts, heading=heading)
    assert line == whole(*parts, heading=heading)
    assert (line["done"], line["done_reason"]) == (True, reason)
    assert "Hey" not in json.dumps(line)


def test_a_line_is_of_one_answer() -> None:
    writer = chat_lines_writer(CHAT, generation_call(stream=True))
    with pytest.raises(RuntimeError):
        writer.ended(Ended("stop", 0))


@pytest.mark.parametrize("error", ERRORS_BY_CODE.values())
def test_an_error_is_a_text_with_its_code_beside_it(error: Any) -> None:
    told = error("What is wrong.")
    shown = OLLAMA_ERRORS.answer(told, "r1")
    more = {"type": error.type, "param": None, "code": told.code}
    assert shown == {"error": "What is wrong.", **more}
    assert json.loads(OLLAMA_ERRORS.event(told)) == shown


def test_a_stream_ends_with_the_line_of_its_error() -> None:
    writer = chat_lines_writer(CHAT, generation_call(stream=True))
    line = writer.failed(InvalidRequest("No."))
    assert line is not None
    assert line.endswith("\n")
    assert json.loads(line)["error"] == "No."


def test_the_sign_of_life_is_a_line_without_text() -> None:
    for form in (CHAT_LINES, GENERATE_LINES):
        line = json.loads(form.sign_of_life)
        assert line["done"] is False
        assert line.get("response", "") == line.get("message", {}).get("content", "") == ""


@pytest.mark.parametrize("text", ["ls -l", "", "[1]", '{"input": 1}', "{"])
def test_a_custom_tools_text_is_its_one_argument(text: str) -> None:
    begun = ToolCallDelta(0, "", 1, id="call_a", name="shell", custom=True)
    parts: list[Part] = [begun, ToolCallDelta(0, text, 1, custom=True), CALLED]
    function = {"index": 0, "name": "shell", "arguments": {"input": text}}
    calls = [{"id": "call_a", "function": function}]
    assert lines(*parts)[0]["message"]["tool_calls"] == calls
    assert whole(*parts)["message"]["tool_calls"] == calls
