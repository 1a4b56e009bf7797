"""The writer of Ollama's answers: one object, or a stream of lines, and errors as Ollama has them.

A call comes as a whole, in one line, since its arguments are an object there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from gguf_worker.api.reading import GenerationCall
from gguf_worker.api.writing import (
    ApiReply,
    CollectedAnswer,
    CollectedCall,
    ErrorShape,
    EventText,
    Footer,
    Heading,
    ResponseWriter,
    StreamForm,
    WholeWriter,
    chat_logprobs,
    collecting,
    cut_delta,
    json_line,
)
from gguf_worker.errors import WorkerError
from gguf_worker.generation import Channel, Usage
from gguf_worker.providers import Ended, Finish, TextDelta, ToolCallDelta

Content = Callable[[str, str, list[dict[str, Any]]], dict[str, Any]]
"""Returns the fields of an object for a text, a thought and calls."""


def _error_answer(error: WorkerError, request_id: str) -> dict[str, Any]:
    told = error.public()
    return {"error": told.pop("message"), **told}


def _error_line(error: WorkerError) -> str:
    return json_line(_error_answer(error, ""))


OLLAMA_ERRORS = ErrorShape("OllamaError", event=_error_line, answer=_error_answer, flat=True)


def _message(text: str, thought: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if thought:
        message["thinking"] = thought
    if calls:
        message["tool_calls"] = calls
    return {"message": message}


def _response(text: str, thought: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
    return {"response": text} | ({"thinking": thought} if thought else {})


def _form(content: Content) -> StreamForm:
    # No client reads an empty line; all read a part without text.
    empty = {"model": "", "created_at": _time(0), **content("", "", []), "done": False}
    return StreamForm("application/x-ndjson", json_line(empty), by_default=True)


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


CHAT_LINES = _form(_message)
GENERATE_LINES = _form(_response)


def chat_lines_writer(heading: Heading, call: GenerationCall) -> ResponseWriter:
    """Return the writer of an answer of /api/chat."""
    return _writer(heading, call, _message, heading.body.get("messages"))


def generate_lines_writer(heading: Heading, call: GenerationCall) -> ResponseWriter:
    """Return the writer of an answer of /api/generate."""
    return _writer(heading, call, _response, heading.body.get("prompt"))


def _writer(heading: Heading, call: GenerationCall, content: Content, asked: Any) -> ResponseWriter:
    ending = _Ending(content, None if asked else _loading(heading.body))
    if call.stream:
        return LineStream(heading, content, ending)
    return WholeWriter(heading, ending.whole, 1, call.request.logprobs is not None)


def _loading(body: Mapping[str, Any]) -> str:
    """Return the reason for which an answer to no question ends: Ollama's word for what it did."""
    return "unload" if body.get("keep_alive") in (0, "0", "0s") else "load"


class _Ending:
    """The object that ends an answer, or is all of it.

    `loading`: the reason of an answer to no question, whose text is not told; None: it has one.
    """

    def __init__(self, content: Content, loading: str | None) -> None:
        self._content = content
        self.loading = loading

    def whole(
        self, heading: Heading, answers: list[CollectedAnswer], usage: Usage
    ) -> dict[str, Any]:
        (answer,) = answers
        if self.loading is not None:
            return self.last(heading, self.loading, usage)
        calls = [_call(number, each) for number, each in enumerate(answer.calls)]
        content = self._content(answer.text, answer.reasoning, calls)
        logprobs = {} if answer.logprobs is None else _logprobs(answer.logprobs)
        return self.last(heading, answer.reason, usage) | content | logprobs

    def last(self, heading: Heading, reason: str, usage: Usage) -> dict[str, Any]:
        """Return the object without text; times are in nanoseconds."""
        figures = {
            "total_duration": _nanoseconds(usage.seconds),
            "load_duration": _nanoseconds(usage.queue_seconds),
            "prompt_eval_count": usage.prompt_tokens,
            "prompt_eval_duration": _nanoseconds(usage.prefill_seconds),
            "eval_count": usage.completion_tokens,
            "eval_duration": _nanoseconds(usage.seconds - usage.ttft_seconds),
        }
        # Ollama has no reason of its own for calls.
        done = {"done": True, "done_reason": "stop" if reason == "tool_calls" else reason}
        return {**_head(heading), **self._content("", "", []), **done, **figures}


class LineStream:
    """The writer of a stream of lines."""

    def __init__(self, heading: Heading, content: Content, ending: _Ending) -> None:
        self._heading = heading
        self._content = content
        self._ending = ending
        self._calls = collecting(1, logprobs=False)[0]
        """The calls so far; only the last one may be incomplete."""
        self._written = 0

    def text(self, delta: TextDelta) -> Iterator[ApiReply]:
        if self._ending.loading is not None:
            return
        yield from self._complete()
        for part in cut_delta(delta):
            if not part.text and not part.logprobs:
                continue
            thought = part.channel is Channel.REASONING
            content = self._content(*("", part.text) if thought else (part.text, ""), [])
            yield self._line(content | (_logprobs(part.logprobs) if part.logprobs else {}))

    def tool_call(self, delta: ToolCallDelta) -> Iterator[ApiReply]:
        if delta.name is not None:
            yield from self._complete()
        self._calls.add_call(delta)

    def ended(self, ended: Ended) -> Iterator[ApiReply]:
        raise RuntimeError("a line is of one answer, which ends with a Finish")

    def finish(self, finish: Finish, footer: Footer) -> Iterator[ApiReply]:
        yield from self._complete()
        reason = self._ending.loading or finish.reason
        yield EventText(json_line(self._ending.last(self._heading, reason, finish.usage) | footer))

    def failed(self, error: WorkerError) -> str:
        return _error_line(error)

    def _complete(self) -> Iterator[ApiReply]:
        """Yield the line of the last call, which has all its arguments now."""
        for number, call in enumerate(self._calls.calls[self._written :], self._written):
            self._written = number + 1
            yield self._line(self._content("", "", [_call(number, call)]))

    def _line(self, content: dict[str, Any]) -> EventText:
        return EventText(json_line({**_head(self._heading), **content, "done": False}))


def _head(heading: Heading) -> dict[str, Any]:
    return {"model": heading.model, "created_at": _time(heading.created)}


def _call(number: int, call: CollectedCall) -> dict[str, Any]:
    function = {"index": number, "name": call.name, "arguments": call.arguments_object()}
    return {"id": call.id, "function": function}


def _logprobs(logprobs: Any) -> dict[str, Any]:
    return {"logprobs": chat_logprobs(logprobs)["content"]}


def _nanoseconds(seconds: float) -> int:
    """Return at least one: clients divide by it."""
    return max(1, round(seconds * 1e9))
