"""The protocol of every writer, and the facts that every part of one answer repeats."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from gguf_worker.api.writing.replies import ApiReply
from gguf_worker.errors import WorkerError
from gguf_worker.providers import Ended, Finish, TextDelta, ToolCallDelta


@dataclass(frozen=True, slots=True)
class Heading:
    """The facts that every part of one answer repeats. `created` is seconds since 1970.

    `body`: the caller's, for answers that repeat some of its fields.
    """

    request_id: str
    model: str
    created: int
    body: Mapping[str, Any] = field(default_factory=dict)


Footer = dict[str, Any]
"""The fields about a call as a whole, at its answer's end: `metrics`, and `warnings` if any."""


def warnings_field(warnings: Sequence[str]) -> dict[str, Any]:
    """Return the field `warnings` of an answer; nothing if there are none."""
    return {"warnings": list(dict.fromkeys(warnings))} if warnings else {}


class ResponseWriter(Protocol):
    """Turns the parts of an answer into replies, in order; `finish` is called once, last."""

    def text(self, delta: TextDelta) -> Iterator[ApiReply]: ...

    def tool_call(self, delta: ToolCallDelta) -> Iterator[ApiReply]: ...

    def ended(self, ended: Ended) -> Iterator[ApiReply]: ...

    def finish(self, finish: Finish, footer: Footer) -> Iterator[ApiReply]: ...

    def failed(self, error: WorkerError) -> str | None:
        """Return the event of the error as text; None if the answer is no stream of events."""
        ...
