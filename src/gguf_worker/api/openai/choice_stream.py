"""The stream of choices that chats and completions have in common."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from gguf_worker.api.writing import (
    PLAIN_ERRORS,
    ApiReply,
    EventText,
    Footer,
    Heading,
    cut_call,
    cut_delta,
    server_sent_event,
    stop_reason,
    usage_object,
)
from gguf_worker.errors import WorkerError
from gguf_worker.generation import Usage
from gguf_worker.providers import Ended, Finish, TextDelta, ToolCallDelta

_DONE = "data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class ObjectName:
    """The name of a kind of object, and the prefix of its ids."""

    name: str
    id_prefix: str


class ChoiceWriter(Protocol):
    """Writes the choices of one kind of stream."""

    def opening(self, index: int) -> dict[str, Any] | None:
        """Return the choice that comes before all others of answer `index`, if there is one."""
        ...

    def text(self, delta: TextDelta) -> dict[str, Any]: ...

    def tool_call(self, delta: ToolCallDelta) -> dict[str, Any]: ...

    def end(self, end: Ended | Finish) -> dict[str, Any]: ...


class ChoiceStream:
    """The writer of a stream of choices; events that come together are joined into one reply."""

    def __init__(
        self,
        heading: Heading,
        name: ObjectName,
        choices: ChoiceWriter,
        *,
        answers: int,
        include_usage: bool,
    ) -> None:
        self._head = _head(heading, name)
        self._choices = choices
        self._unopened = set(range(answers))
        self._include_usage = include_usage

    def text(self, delta: TextDelta) -> Iterator[ApiReply]:
        for part in cut_delta(delta):
            choice = self._choices.text(part)
            yield EventText(self._open(delta.index) + self._chunk([choice]))

    def tool_call(self, delta: ToolCallDelta) -> Iterator[ApiReply]:
        for part in cut_call(delta):
            choice = self._choices.tool_call(part)
            yield EventText(self._open(part.index) + self._chunk([choice]))

    def ended(self, ended: Ended) -> Iterator[ApiReply]:
        choice = self._choices.end(ended) | stop_reason(ended.stop)
        yield EventText(self._open(ended.index) + self._chunk([choice]))

    def finish(self, finish: Finish, footer: Footer) -> Iterator[ApiReply]:
        choice = self._choices.end(finish) | stop_reason(finish.stop)
        last = self._chunk([choice], **footer)
        usage = ""
        if self._include_usage:
            usage = self._chunk([], usage=usage_object(finish.usage))
        yield EventText(self._open(finish.index) + last + usage + _DONE)

    def failed(self, error: WorkerError) -> str:
        return PLAIN_ERRORS.event(error)

    def _open(self, index: int) -> str:
        if index not in self._unopened:
            return ""
        self._unopened.remove(index)
        choice = self._choices.opening(index)
        return "" if choice is None else self._chunk([choice])

    def _chunk(self, choices: Sequence[dict[str, Any]], **more: Any) -> str:
        data = {**self._head, "choices": choices}
        if self._include_usage:
            data["usage"] = None
        return server_sent_event(data | more)


def whole_object(
    heading: Heading, name: ObjectName, choices: list[dict[str, Any]], usage: Usage
) -> dict[str, Any]:
    """Return the object of an answer that is no stream."""
    return {**_head(heading, name), "choices": choices, "usage": usage_object(usage)}


def _head(heading: Heading, name: ObjectName) -> dict[str, Any]:
    return {
        "id": f"{name.id_prefix}-{heading.request_id}",
        "object": name.name,
        "created": heading.created,
        "model": heading.model,
        "system_fingerprint": None,
    }
