"""How an answer is written down for Anthropic's /v1/messages: the message, and its event stream.

Blocks come in the order in which the model wrote them: thoughts, text, calls.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from gguf_worker.api.named_events import StoryWire, Told, cut, written
from gguf_worker.api.render import Heading
from gguf_worker.errors import WorkerError
from gguf_worker.generation import Channel, Usage
from gguf_worker.providers import Finish, TextDelta, ToolCallDelta

UNREADABLE = "unreadable_arguments"
"""The field of a call's input that has its text where that is no JSON object, as when it was cut off."""

_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}

_ERRORS = {
    "server_error": "api_error",
    "cancelled_error": "api_error",
}
"""Types of errors that Anthropic calls otherwise."""

_EMPTY: dict[str, dict[str, Any]] = {
    "thinking": {"type": "thinking", "thinking": "", "signature": ""},
    "text": {"type": "text", "text": "", "citations": None},
}

_DELTAS = {"thinking": "thinking", "text": "text", "input_json": "partial_json"}
"""The field of each kind of delta that has the text."""


def messages_wire(heading: Heading, *, stream: bool) -> StoryWire:
    return StoryWire(_Message(heading), stream=stream)


def messages_failure(error: WorkerError) -> str:
    """The event that ends a stream, whether or not its answer has begun."""
    return written(_error_event(error))


def error_answer(error: WorkerError, request_id: str) -> dict[str, Any]:
    """What a request gets that fails as a whole."""
    return {**_error_event(error), "request_id": request_id}


def error_type(error: type[WorkerError]) -> str:
    """Anthropic's word for errors of this kind."""
    return "not_found_error" if error.status == 404 else _ERRORS.get(error.type, error.type)


def token_count(prompt_tokens: int) -> dict[str, int]:
    """The answer of /v1/messages/count_tokens."""
    return {"input_tokens": prompt_tokens}


class _Message:
    """The Story of a message. One block is open at a time, the last one."""

    def __init__(self, heading: Heading) -> None:
        self._message: dict[str, Any] = {
            "id": f"msg_{heading.request_id}",
            "type": "message",
            "role": "assistant",
            "model": heading.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 0, "output_tokens": 0},
        }
        self._begun = False
        self._open: dict[str, Any] | None = None
        self._texts: list[str] = []

    def piece(self, piece: TextDelta) -> Iterator[Told]:
        if not piece.text:
            return
        kind = "thinking" if piece.channel is Channel.REASONING else "text"
        if self._open is None or self._open["type"] != kind:
            yield from self._next(dict(_EMPTY[kind]))
        yield from self._deltas(kind, piece.text)

    def call(self, piece: ToolCallDelta) -> Iterator[Told]:
        if piece.name is not None:
            yield from self._next(
                {"type": "tool_use", "id": piece.id, "name": piece.name, "input": {}}
            )
        yield from self._deltas("input_json", piece.text)

    def finish(self, finish: Finish, metrics: dict[str, Any]) -> Iterator[Told]:
        yield from self._opening()
        yield from self._closed()
        delta = _ending(finish)
        usage = _usage_object(finish.usage)
        self._message |= {**delta, "usage": usage, "metrics": metrics}
        yield {"type": "message_delta", "delta": delta, "usage": usage, "metrics": metrics}
        yield {"type": "message_stop"}

    def failed(self, error: WorkerError) -> Told:
        return _error_event(error)

    def whole(self) -> dict[str, Any]:
        return self._message

    def _opening(self) -> Iterator[Told]:
        if not self._begun:
            self._begun = True
            yield {"type": "message_start", "message": {**self._message, "content": []}}

    def _next(self, block: dict[str, Any]) -> Iterator[Told]:
        yield from self._opening()
        yield from self._closed()
        self._open = block
        self._message["content"].append(block)
        yield {"type": "content_block_start", "index": self._index, "content_block": dict(block)}

    def _deltas(self, kind: str, text: str) -> Iterator[Told]:
        for part in cut(text):
            self._texts.append(part)
            delta = {"type": f"{kind}_delta", _DELTAS[kind]: part}
            yield {"type": "content_block_delta", "index": self._index, "delta": delta}

    def _closed(self) -> Iterator[Told]:
        block, self._open = self._open, None
        if block is None:
            return
        text = "".join(self._texts)
        self._texts = []
        if block["type"] == "tool_use":
            block["input"] = _input(text)
        else:
            block[block["type"]] = text
        yield {"type": "content_block_stop", "index": self._index}

    @property
    def _index(self) -> int:
        return len(self._message["content"]) - 1


def _ending(finish: Finish) -> dict[str, str | None]:
    if finish.reason == "stop" and finish.stop is not None:
        return {"stop_reason": "stop_sequence", "stop_sequence": finish.stop}
    return {"stop_reason": _REASONS[finish.reason], "stop_sequence": None}


def _input(text: str) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(text or "{}")
    except (msgspec.DecodeError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {UNREADABLE: text}


def _usage_object(usage: Usage) -> dict[str, int]:
    """Anthropic counts what was cached apart from the input, not as a part of it."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
    }


def _error_event(error: WorkerError) -> Told:
    return {"type": "error", "error": {**error.public(), "type": error_type(type(error))}}
