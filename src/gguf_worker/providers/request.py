"""The domain's own words for a request and its answer: a wish, pieces of text, and how it ended.

No wire format and no engine message is known here, so a remote provider's answer and a local one's look the
same to whoever asked.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Protocol

from gguf_worker.engine import Sampling

SEEDS = 2**32 - 1
"""There are so many seeds, from 0; this number itself means "draw one" to llama.cpp."""


class Priority(IntEnum):
    """Who goes first where not all can be computed at once."""

    LOW = 0
    NORMAL = 1
    HIGH = 2


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
    pace: float = 0.0
    """Seconds that a reader would rather wait for a larger piece, after the first and before the last."""
    n: int = 1
    """Answers wanted, each drawn on its own: with a seed s, answer i has the seed s + i."""
    priority: Priority = Priority.NORMAL
    user: str = ""
    """On whose behalf, for a fair share among users; "": nobody's in particular."""


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
    """Text of answer `index` that has come since its piece before; `tokens` of them."""

    text: str
    tokens: int
    index: int = 0


@dataclass(frozen=True, slots=True)
class Ended:
    """Answer `index` is complete while others go on; the reasons are those of Finish."""

    reason: str
    index: int


@dataclass(frozen=True, slots=True)
class Finish:
    """The end of the last answer, `index`, and so of all; `usage` is what they cost together.

    `reason`: `stop` (its own end or a stop string) or `length` (a limit was reached).
    """

    reason: str
    usage: Usage
    index: int = 0


Part = Piece | Ended | Finish


class Provider(Protocol):
    """Somewhere an answer can come from."""

    def answer(self, wish: Wish) -> AsyncGenerator[Part, None]:
        """Pieces, then exactly one Finish; or a WorkerError. Closing the generator cancels.

        Of several answers the pieces come as they are made, each answer but the last to end has an
        Ended, and one error is the end of them all.
        """
        ...
