"""The writer of chat completions."""

from __future__ import annotations

from functools import partial
from typing import Any

from gguf_worker.api.openai.choice_stream import ChoiceStream, ObjectName, whole_object
from gguf_worker.api.reading import GenerationCall
from gguf_worker.api.writing import (
    CollectedAnswer,
    Heading,
    ResponseWriter,
    WholeWriter,
    call_delta,
    chat_logprobs,
    prompt_logprobs,
    stop_reason,
)
from gguf_worker.generation import Channel, Usage
from gguf_worker.providers import Ended, Finish, TextDelta, ToolCallDelta

_WHOLE = ObjectName("chat.completion", "chatcmpl")
_STREAMED = ObjectName("chat.completion.chunk", "chatcmpl")


def chat_writer(heading: Heading, call: GenerationCall) -> ResponseWriter:
    """Return the writer of the form that the caller asked for."""
    answers, logprobs = call.request.answers, call.request.logprobs is not None
    if not call.stream:
        return WholeWriter(heading, partial(_object, call), answers, logprobs)
    choices = ChatChoices(logprobs)
    return ChoiceStream(
        heading, _STREAMED, choices, answers=answers, include_usage=call.include_usage
    )


class ChatChoices:
    """The choices of a streamed chat, each answer's opened with its role."""

    def __init__(self, logprobs: bool) -> None:
        self._logprobs = logprobs

    def opening(self, index: int) -> dict[str, Any]:
        return _choice(index, {"role": "assistant", "content": ""}, None)

    def text(self, delta: TextDelta) -> dict[str, Any]:
        name = "content" if delta.channel is Channel.CONTENT else "reasoning_content"
        logprobs = chat_logprobs(delta.logprobs) if self._logprobs else None
        return _choice(delta.index, {name: delta.text}, None, logprobs)

    def tool_call(self, delta: ToolCallDelta) -> dict[str, Any]:
        return _choice(delta.index, {"tool_calls": [call_delta(delta)]}, None)

    def end(self, end: Ended | Finish) -> dict[str, Any]:
        return _choice(end.index, {}, end.reason)


def _choice(
    index: int, delta: dict[str, Any], reason: str | None, logprobs: Any = None
) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}


def _object(
    call: GenerationCall, heading: Heading, answers: list[CollectedAnswer], usage: Usage
) -> dict[str, Any]:
    choices = [
        {
            "index": answer.index,
            "message": _message(answer),
            "logprobs": None if answer.logprobs is None else chat_logprobs(answer.logprobs),
            "finish_reason": answer.reason,
            **stop_reason(answer.stop),
        }
        for answer in answers
    ]
    whole = whole_object(heading, _WHOLE, choices, usage)
    if call.shows_prompt_logprobs:
        whole |= prompt_logprobs(answers[0].prompt_logprobs, call.request.prompt_logprobs or 0)
    return whole


def _message(answer: CollectedAnswer) -> dict[str, Any]:
    content = answer.text or (None if answer.calls else "")
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
    if answer.reasoning:
        message["reasoning_content"] = answer.reasoning
    if answer.calls:
        message["tool_calls"] = [call.object() for call in answer.calls]
    return message
