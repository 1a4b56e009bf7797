"""Streams whose events have names, and whole answers that are such a stream collected.

What is told is an API's own business; how it is packed into replies is decided here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from gguf_worker.api.render import LARGEST_TEXT, Body, Event, Reply, event
from gguf_worker.errors import WorkerError
from gguf_worker.providers import Ended, Finish, TextDelta, ToolCallDelta

Told = dict[str, Any]
"""One event; its name is its `type`."""


class Story(Protocol):
    """One answer, told as it becomes known. A piece's text may be of any length."""

    def piece(self, piece: TextDelta) -> Iterator[Told]: ...

    def call(self, piece: ToolCallDelta) -> Iterator[Told]: ...

    def finish(self, finish: Finish, metrics: dict[str, Any]) -> Iterator[Told]: ...

    def failed(self, error: WorkerError) -> Told:
        """The one event that ends an answer which cannot go on."""
        ...

    def whole(self) -> dict[str, Any]:
        """The finished answer."""
        ...


class StoryWire:
    """The Wire of a story: its events as they come, joined where they come at the same time, or its end."""

    def __init__(self, story: Story, *, stream: bool) -> None:
        self._story = story
        self._stream = stream

    def piece(self, piece: TextDelta) -> Iterator[Reply]:
        return self._told(self._story.piece(piece))

    def call(self, piece: ToolCallDelta) -> Iterator[Reply]:
        return self._told(self._story.call(piece))

    def ended(self, ended: Ended) -> Iterator[Reply]:
        raise RuntimeError("a story is of one answer, which ends with a Finish")

    def finish(self, finish: Finish, metrics: dict[str, Any]) -> Iterator[Reply]:
        yield from self._told(self._story.finish(finish, metrics))
        if not self._stream:
            yield Body(self._story.whole())

    def failed(self, error: WorkerError) -> str | None:
        """What says so on the stream; None where there is none."""
        return written(self._story.failed(error)) if self._stream else None

    def _told(self, events: Iterator[Told]) -> Iterator[Reply]:
        if self._stream:
            return joined(map(written, events))
        for _ in events:  # told all the same: that is how the whole comes to be known
            pass
        return iter(())


def written(told: Told) -> str:
    return f"event: {told['type']}\n{event(told)}"


def joined(events: Iterable[str]) -> Iterator[Event]:
    """As few replies as can be, none of them too large unless one event alone is."""
    text = ""
    for each in events:
        if text and len(text) + len(each) > LARGEST_TEXT:
            yield Event(text)
            text = ""
        text += each
    if text:
        yield Event(text)


def cut(text: str) -> Iterator[str]:
    """The text in parts that fit an item of a stream; nothing for an empty one."""
    for start in range(0, len(text), LARGEST_TEXT):
        yield text[start : start + LARGEST_TEXT]
