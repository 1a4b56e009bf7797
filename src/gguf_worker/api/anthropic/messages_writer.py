"""The writer of /v1/messages: the message, its event stream, and errors as Anthropic writes them.

Blocks come in the order in which the model wrote them: thoughts, text, calls.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from gguf_worker.api.reading import TEXT, GenerationCall
from gguf_worker.api.writing import (
    ErrorShape,
    Footer,
    Heading,
    NamedEvent,
    NamedEventReplies,
    call_arguments,
    cut_text,
    named_event_text,
)
from gguf_worker.errors import WorkerError
from gguf_worker.generation import Channel, Usage
from gguf_worker.providers import Finish, ModelCard, TextDelta, ToolCallDelta

_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}

_ERROR_TYPES = {
    "server_error": "api_error",
    "cancelled_error": "api_error",
}
"""Anthropic's names of error types where they differ from ours."""

_EMPTY: dict[str, dict[str, Any]] = {
    "thinking": {"type": "thinking", "thinking": "", "signature": ""},
    "text": {"type": "text", "text": ""},
}

_DELTAS = {"thinking": "thinking", "text": "text", "input_json": "partial_json"}
"""The field that holds the text, for each kind of delta."""


def messages_writer(heading: Heading, call: GenerationCall) -> NamedEventReplies:
    """Return the writer of the form that the caller asked for."""
    return NamedEventReplies(MessageEvents(heading), stream=call.stream)


async def write_token_count(
    tokens: Sequence[int], call: GenerationCall, card: ModelCard
) -> dict[str, Any]:
    """Return the answer of /v1/messages/count_tokens."""
    return {"input_tokens": len(tokens)}


def messages_failure(error: WorkerError) -> str:
    """Return the event that ends a stream, whether or not its answer has begun."""
    return named_event_text(_error_event(error))


def error_answer(error: WorkerError, request_id: str) -> dict[str, Any]:
    """Return the answer to a request that fails as a whole."""
    return {**_error_event(error), "request_id": request_id}


def error_type(error: type[WorkerError]) -> str:
    """Return Anthropic's type for a class of errors."""
    return "not_found_error" if error.status == 404 else _ERROR_TYPES.get(error.type, error.type)


ANTHROPIC_ERRORS = ErrorShape(
    "AnthropicError",
    event=messages_failure,
    answer=error_answer,
    type_of=error_type,
    around={"type": {"const": "error"}, "request_id": TEXT},
    client_header="anthropic-version",
)


class MessageEvents:
    """The NamedEventWriter of a message. One block is open at a time, the last one."""

    def __init__(self, heading: Heading) -> None:
        self._message: dict[str, Any] = {
            "id": f"msg_{heading.request_id}",
            "type": "message",
            "role": "assistant",
            "model": heading.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": _usage_object(Usage(0, 0)),
        }
        self._begun = False
        self._open: dict[str, Any] | None = None
        self._texts: list[str] = []

    def text(self, delta: TextDelta) -> Iterator[NamedEvent]:
        self._count_input(delta.usage)
        if not delta.text:
            return
        kind = "thinking" if delta.channel is Channel.REASONING else "text"
        if self._open is None or self._open["type"] != kind:
            yield from self._next(dict(_EMPTY[kind]))
        yield from self._deltas(kind, delta.text)

    def tool_call(self, delta: ToolCallDelta) -> Iterator[NamedEvent]:
        self._count_input(delta.usage)
        if delta.name is not None:
            yield from self._next(
                {"type": "tool_use", "id": delta.id, "name": delta.name, "input": {}}
            )
        yield from self._deltas("input_json", delta.text)

    def finish(self, finish: Finish, footer: Footer) -> Iterator[NamedEvent]:
        self._count_input(finish.usage)
        yield from self._begin()
        yield from self._close()
        delta = _ending(finish)
        usage = _usage_object(finish.usage)
        self._message |= {**delta, "usage": usage, **footer}
        yield {"type": "message_delta", "delta": delta, "usage": usage, **footer}
        yield {"type": "message_stop"}

    def failed(self, error: WorkerError) -> NamedEvent:
        return _error_event(error)

    def whole(self) -> dict[str, Any]:
        return self._message

    def _count_input(self, usage: Usage | None) -> None:
        """Note the cost of the prompt for the beginning of the message."""
        if usage is not None and not self._begun:
            self._message["usage"] = _usage_object(usage) | {"output_tokens": 0}

    def _begin(self) -> Iterator[NamedEvent]:
        if not self._begun:
            self._begun = True
            yield {"type": "message_start", "message": {**self._message, "content": []}}

    def _next(self, block: dict[str, Any]) -> Iterator[NamedEvent]:
        yield from self._begin()
        yield from self._close()
        self._open = block
        self._message["content"].append(block)
        yield {"type": "content_block_start", "index": self._index, "content_block": dict(block)}

    def _deltas(self, kind: str, text: str) -> Iterator[NamedEvent]:
        for part in cut_text(text):
            self._texts.append(part)
            delta = {"type": f"{kind}_delta", _DELTAS[kind]: part}
            yield {"type": "content_block_delta", "index": self._index, "delta": delta}

    def _close(self) -> Iterator[NamedEvent]:
        block, self._open = self._open, None
        if block is None:
            return
        text = "".join(self._texts)
        self._texts = []
        if block["type"] == "tool_use":
            block["input"] = call_arguments(text)
        else:
            block[block["type"]] = text
        yield {"type": "content_block_stop", "index": self._index}

    @property
    def _index(self) -> int:
        return len(self._message["content"]) - 1


def _ending(finish: Finish) -> dict[str, str | None]:
    if finish.reason == "stop" and isinstance(finish.stop, str):
        return {"stop_reason": "stop_sequence", "stop_sequence": finish.stop}
    return {"stop_reason": _REASONS[finish.reason], "stop_sequence": None}


def _usage_object(usage: Usage) -> dict[str, Any]:
    """Return the tokens as Anthropic counts them: the input does not include cached ones."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
    }


def _error_event(error: WorkerError) -> NamedEvent:
    return {"type": "error", "error": {**error.public(), "type": error_type(type(error))}}
