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
    old = bool(heading.body.get("functions"))
    if not call.stream:
        return WholeWriter(heading, partial(_object, call, old=old), answers, logprobs)
    choices = ChatChoices(logprobs, old=old)
    return ChoiceStream(
        heading, _STREAMED, choices, answers=answers, include_usage=call.include_usage
    )


class ChatChoices:
    """The choices of a streamed chat, each answer's opened with its role.

    `old`: the request had OpenAI's old `functions`, so its answer has a `function_call`.
    """

    def __init__(self, logprobs: bool, *, old: bool = False) -> None:
        self._logprobs = logprobs
        self._old = old

    def opening(self, index: int) -> dict[str, Any]:
        return _choice(index, {"role": "assistant", "content": ""}, None)

    def text(self, delta: TextDelta) -> dict[str, Any]:
        name = "content" if delta.channel is Channel.CONTENT else "reasoning_content"
        logprobs = chat_logprobs(delta.logprobs) if self._logprobs else None
        return _choice(delta.index, {name: delta.text}, None, logprobs)

    def tool_call(self, delta: ToolCallDelta) -> dict[str, Any]:
        if not self._old:
            return _choice(delta.index, {"tool_calls": [call_delta(delta)]}, None)
        name = {} if delta.name is None else {"name": delta.name}
        return _choice(delta.index, {"function_call": {**name, "arguments": delta.text}}, None)

    def end(self, end: Ended | Finish) -> dict[str, Any]:
        return _choice(end.index, {}, _reason(end.reason, self._old))


def _choice(
    index: int, delta: dict[str, Any], reason: str | None, logprobs: Any = None
) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}


def _reason(reason: str, old: bool) -> str:
    return "function_call" if old and reason == "tool_calls" else reason


def _object(
    call: GenerationCall,
    heading: Heading,
    answers: list[CollectedAnswer],
    usage: Usage,
    *,
    old: bool,
) -> dict[str, Any]:
    choices = [
        {
            "index": answer.index,
            "message": _message(answer, old),
            "logprobs": None if answer.logprobs is None else chat_logprobs(answer.logprobs),
            "finish_reason": _reason(answer.reason, old),
            **stop_reason(answer.stop),
        }
        for answer in answers
    ]
    whole = whole_object(heading, _WHOLE, choices, usage)
    if call.shows_prompt_logprobs:
        whole |= prompt_logprobs(answers[0].prompt_logprobs, call.request.prompt_logprobs or 0)
    return whole


def _message(answer: CollectedAnswer, old: bool) -> dict[str, Any]:
    content = answer.text or (None if answer.calls else "")
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
    if answer.reasoning:
        message["reasoning_content"] = answer.reasoning
    if answer.calls and old:
        message["function_call"] = answer.calls[0].old_object()
    elif answer.calls:
        message["tool_calls"] = [call.object() for call in answer.calls]
    return message
