"""What a reader of answers tells: text of a channel, and calls of tools.

Knows no model's format.
"""

from __future__ import annotations

from dataclasses import dataclass

from gguf_worker.generation import Channel


@dataclass(frozen=True, slots=True)
class Text:
    """More text of `channel`."""

    channel: Channel
    text: str


@dataclass(frozen=True, slots=True)
class CallBegun:
    """The model calls the tool `name`; `id` is the model's own for this call, None where it gave none."""

    name: str
    id: str | None = None


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of the JSON text of the arguments of the call that has begun."""

    text: str


@dataclass(frozen=True, slots=True)
class CallEnded:
    """The call that has begun is complete, or will never be."""


Event = Text | CallBegun | CallArguments | CallEnded
