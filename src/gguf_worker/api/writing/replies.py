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
    """One or more server-sent events, as text."""

    text: str


@dataclass(frozen=True, slots=True)
class Item:
    """One object of a native stream."""

    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Failed:
    """The failure of a request; always the last reply. `event`: its text on an event stream."""

    error: WorkerError
    event: str | None = None


ApiReply = Body | EventText | Item | Failed

_SEPARATORS = (("\x85", "\\u0085"), ("\u2028", "\\u2028"), ("\u2029", "\\u2029"))


def server_sent_event(data: dict[str, Any]) -> str:
    """Return the text of one event. Separators at which some clients wrongly split are escaped."""
    text = msgspec.json.encode(data).decode()
    if not text.isascii():
        for separator, escaped in _SEPARATORS:
            text = text.replace(separator, escaped)
    return f"data: {text}\n\n"
