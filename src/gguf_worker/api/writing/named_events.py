"""Streams whose events have names, and whole answers that are such a stream collected.

A dialect decides which events there are; here they are packed into replies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from gguf_worker.api.writing.fitting import LARGEST_TEXT
from gguf_worker.api.writing.replies import ApiReply, Body, EventText, server_sent_event
from gguf_worker.api.writing.response_writer import Footer
from gguf_worker.errors import WorkerError
from gguf_worker.providers import Ended, Finish, TextDelta, ToolCallDelta

NamedEvent = dict[str, Any]
"""One event; its name is its `type`."""


class NamedEventWriter(Protocol):
    """Turns the parts of one answer into events. A delta's text may be of any length."""

    def text(self, delta: TextDelta) -> Iterator[NamedEvent]: ...

    def tool_call(self, delta: ToolCallDelta) -> Iterator[NamedEvent]: ...

    def finish(self, finish: Finish, footer: Footer) -> Iterator[NamedEvent]: ...

    def failed(self, error: WorkerError) -> NamedEvent:
        """Return the event that ends a failed answer."""
        ...

    def whole(self) -> dict[str, Any]:
        """Return the finished answer."""
        ...


class NamedEventReplies:
    """The ResponseWriter over a NamedEventWriter.

    A stream has the events as they come, joined where they come together; a whole answer is the
    writer's `whole()` at the end.
    """

    def __init__(self, events: NamedEventWriter, *, stream: bool) -> None:
        self._events = events
        self._stream = stream

    def text(self, delta: TextDelta) -> Iterator[ApiReply]:
        return self._replies(self._events.text(delta))

    def tool_call(self, delta: ToolCallDelta) -> Iterator[ApiReply]:
        return self._replies(self._events.tool_call(delta))

    def ended(self, ended: Ended) -> Iterator[ApiReply]:
        raise RuntimeError("named events are of one answer, which ends with a Finish")

    def finish(self, finish: Finish, footer: Footer) -> Iterator[ApiReply]:
        yield from self._replies(self._events.finish(finish, footer))
        if not self._stream:
            yield Body(self._events.whole())

    def failed(self, error: WorkerError) -> str | None:
        """Return the event of the error as text; None if the answer is not streamed."""
        return named_event_text(self._events.failed(error)) if self._stream else None

    def _replies(self, events: Iterator[NamedEvent]) -> Iterator[ApiReply]:
        if self._stream:
            return joined(map(named_event_text, events))
        for _ in events:  # run all the same: the events fill the whole answer
            pass
        return iter(())


def named_event_text(event: NamedEvent) -> str:
    """Return the text of one event."""
    return f"event: {event['type']}\n{server_sent_event(event)}"


def joined(events: Iterable[str]) -> Iterator[EventText]:
    """Yield as few replies as fit LARGEST_TEXT; only a single event may be larger."""
    text = ""
    for each in events:
        if text and len(text) + len(each) > LARGEST_TEXT:
            yield EventText(text)
            text = ""
        text += each
    if text:
        yield EventText(text)
