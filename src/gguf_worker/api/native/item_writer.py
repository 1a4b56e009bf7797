"""The writer of a plain answer: one object, or a stream of items."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from gguf_worker.api.reading import GenerationCall
from gguf_worker.api.writing import (
    ApiReply,
    CollectedAnswer,
    Footer,
    Heading,
    Item,
    ResponseWriter,
    WholeWriter,
    call_delta,
    chat_logprobs,
    collecting,
    cut_call,
    cut_delta,
    stop_reason,
    usage_object,
)
from gguf_worker.errors import WorkerError
from gguf_worker.generation import Channel, TokenLogprob, Usage
from gguf_worker.providers import Ended, Finish, TextDelta, ToolCallDelta


def native_writer(heading: Heading, call: GenerationCall) -> ResponseWriter:
    """Return the writer of the form that the caller asked for."""
    answers = call.request.answers
    if call.stream:
        return ItemWriter(heading, answers)
    return WholeWriter(heading, _object, answers, call.request.logprobs is not None)


class ItemWriter:
    """A stream of plain objects, the last one with the reasons, the cost and the warnings.

    Only the last one has `finish_reason`, by which a client recognises it, also the one of a
    failure.
    """

    def __init__(self, heading: Heading, answers: int) -> None:
        self._heading = heading
        self._answers = collecting(answers, logprobs=False)

    def text(self, delta: TextDelta) -> Iterator[ApiReply]:
        name = "text" if delta.channel is Channel.CONTENT else "reasoning"
        for part in cut_delta(delta):
            more = _logprobs(part.logprobs) if part.logprobs else {}
            yield Item({name: part.text, "tokens": part.tokens, **more, **self._index(delta.index)})

    def tool_call(self, delta: ToolCallDelta) -> Iterator[ApiReply]:
        self._answers[delta.index].add_call(delta)
        for part in cut_call(delta):
            data = {"tool_calls": [call_delta(part)], "tokens": part.tokens}
            yield Item({**data, **self._index(delta.index)})

    def ended(self, ended: Ended) -> Iterator[ApiReply]:
        self._answers[ended.index].end(ended)
        return iter(())

    def finish(self, finish: Finish, footer: Footer) -> Iterator[ApiReply]:
        self._answers[finish.index].end(finish)
        yield Item(_object(self._heading, self._answers, finish.usage) | footer)

    def failed(self, error: WorkerError) -> None:
        return None

    def _index(self, index: int) -> dict[str, Any]:
        return {"index": index} if len(self._answers) > 1 else {}


def failure_item(error: WorkerError) -> dict[str, Any]:
    """Return the last object of a stream that fails.

    It has no field `error`, with which RunPod's SDK would end the job and keep it from the stream.
    """
    return {"finish_reason": "error", "failure": error.public()}


def _object(heading: Heading, answers: list[CollectedAnswer], usage: Usage) -> dict[str, Any]:
    """Return the first answer's own fields; of several answers also a list of all."""
    choices = [_choice(each) for each in answers]
    first = {name: value for name, value in choices[0].items() if name != "index"}
    data = {**first, "usage": usage_object(usage), "model": heading.model}
    if len(choices) > 1:
        data["choices"] = choices
    return data


def _choice(answer: CollectedAnswer) -> dict[str, Any]:
    data = {"index": answer.index, "text": answer.text, "finish_reason": answer.reason}
    if answer.stop is not None:
        data |= stop_reason(answer.stop)
    if answer.reasoning:
        data["reasoning"] = answer.reasoning
    if answer.calls:
        data["tool_calls"] = [call.object() for call in answer.calls]
    if answer.logprobs is not None:
        data |= _logprobs(answer.logprobs)
    return data


def _logprobs(logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
    return {"logprobs": chat_logprobs(logprobs)["content"]}
