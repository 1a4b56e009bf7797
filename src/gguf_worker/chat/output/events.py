"""Events of an answer that is read: text of a channel, and tool calls, in no model's notation."""

from __future__ import annotations

from dataclasses import dataclass

from gguf_worker.generation import Channel


@dataclass(frozen=True, slots=True)
class AnswerText:
    """More text of `channel`."""

    channel: Channel
    text: str


@dataclass(frozen=True, slots=True)
class CallBegun:
    """The start of a call of the tool `name`; `id` is the model's own, or None."""

    name: str
    id: str | None = None


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of the JSON text of the arguments of the call that has begun."""

    text: str


@dataclass(frozen=True, slots=True)
class CallEnded:
    """The end of the call that has begun: it is complete, or will never be."""


AnswerEvent = AnswerText | CallBegun | CallArguments | CallEnded
