"""Replies, the units in which the gateway hands an answer to a front door."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from gguf_worker.errors import WorkerError


@dataclass(frozen=True, slots=True)
class Body:
    """A whole answer, as one JSON object."""

    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class EventText:
    """One or more server-sent events, or lines of JSON, as text."""

    text: str


@dataclass(frozen=True, slots=True)
class Item:
    """One object of a native stream."""

    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Failed:
    """The failure of a request; always the last reply. `event`: its text on a stream of text."""

    error: WorkerError
    event: str | None = None


ApiReply = Body | EventText | Item | Failed


@dataclass(frozen=True, slots=True)
class StreamForm:
    """The form of streams over HTTP. `sign_of_life` shows, as text, that an answer still comes.

    `by_default`: an answer is a stream unless the caller wants it as a whole.
    """

    content_type: str
    sign_of_life: str
    by_default: bool = False


EVENTS = StreamForm("text/event-stream; charset=utf-8", ": keep-alive\n\n")
"""Server-sent events, with a comment as the sign of life."""

_SEPARATORS = (("\x85", "\\u0085"), ("\u2028", "\\u2028"), ("\u2029", "\\u2029"))


def server_sent_event(data: dict[str, Any]) -> str:
    """Return the text of one event."""
    return f"data: {_json(data)}\n\n"


def json_line(data: dict[str, Any]) -> str:
    """Return the text of one line in a stream of JSON lines."""
    return f"{_json(data)}\n"


def _json(data: dict[str, Any]) -> str:
    """Return the data as JSON. Separators at which some clients wrongly split are escaped."""
    text = msgspec.json.encode(data).decode()
    if not text.isascii():
        for separator, escaped in _SEPARATORS:
            text = text.replace(separator, escaped)
    return text
