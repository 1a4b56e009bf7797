"""The domain's own words for a request and its answer: a wish, pieces of text, and how it ended.

No wire format and no engine message is known here, so a remote provider's answer and a local one's look the
same to whoever asked.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from gguf_worker.engine import Sampling


@dataclass(frozen=True, slots=True)
class Wish:
    """What a caller wants generated: from `messages` (a chat) or from `prompt`, exactly one of them."""

    id: str
    sampling: Sampling
    prompt: str | None = None
    messages: tuple[Mapping[str, Any], ...] | None = None
    """Each with `role`, `content` (text or None), and what else the chat template may read."""
    template_options: Mapping[str, Any] = field(default_factory=dict)
    """Extra variables for the chat template, such as `enable_thinking`."""
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    deadline: float | None = None
    """On the machine's monotonic clock, seconds; None: as long as it takes."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What an answer cost. Seconds: in the queue, until the prompt was computed, until the first text."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    queue_seconds: float = 0.0
    prefill_seconds: float = 0.0
    ttft_seconds: float = 0.0
    seconds: float = 0.0

    @property
    def tokens_per_second(self) -> float | None:
        """Generated tokens after the first, over the time since the first."""
        decoding = self.seconds - self.ttft_seconds
        if self.completion_tokens < 2 or decoding <= 0:
            return None
        return (self.completion_tokens - 1) / decoding


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that has come since the piece before; `tokens` of them."""

    text: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Finish:
    """The end of an answer: `stop` (its own end or a stop string) or `length` (a limit was reached)."""

    reason: str
    usage: Usage


class Provider(Protocol):
    """Somewhere an answer can come from."""

    def answer(self, wish: Wish) -> AsyncGenerator[Piece | Finish, None]:
        """Pieces, then exactly one Finish; or a WorkerError. Closing the generator cancels."""
        ...
