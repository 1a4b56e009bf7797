"""The domain's own words for a request and its answer: a request, pieces of text, and how it ended.

No wire format and no engine message is known here, so a remote provider's answer and a local one's look the
same to whoever asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Literal

from gguf_worker.generation import Grammar, Sampling

SEEDS = 2**32 - 1
"""There are so many seeds, from 0; this number itself means "draw one" to llama.cpp."""


class Priority(IntEnum):
    """Who goes first where not all can be computed at once."""

    LOW = 0
    NORMAL = 1
    HIGH = 2


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Whether an answer may, must not, or has to call a tool; `name`: this one and no other."""

    mode: Literal["auto", "none", "required"] = "auto"
    name: str | None = None


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What a caller wants generated: from `messages` (a chat) or from `prompts`, exactly one of them."""

    id: str
    sampling: Sampling
    prompts: tuple[str | tuple[int, ...], ...] = ()
    """Each a text, or token ids. Each gets `n` answers, those of the first prompt first."""
    suffix: str = ""
    """What comes behind the answer, which fills the gap between a text prompt and this."""
    messages: tuple[Mapping[str, Any], ...] | None = None
    """Each with `role`, `content` (text or None), and what else the chat template may read."""
    template_options: Mapping[str, Any] = field(default_factory=dict)
    """Extra variables for the chat template, such as `enable_thinking`."""
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    deadline: float | None = None
    """On the machine's monotonic clock, seconds; None: as long as it takes."""
    min_interval: float = 0.0
    """Seconds that a reader would rather wait for a larger piece, after the first and before the last."""
    n: int = 1
    """Answers wanted to each prompt, drawn each on its own: with a seed s, answer i has the seed s + i."""
    priority: Priority = Priority.NORMAL
    user: str = ""
    """On whose behalf, for a fair share among users; "": nobody's in particular."""
    tools: tuple[Mapping[str, Any], ...] = ()
    """Functions that the model may call, as OpenAI writes them and templates read them."""
    tool_choice: ToolChoice = ToolChoice()
    parallel_calls: bool = True
    """May one answer call several tools?"""
    grammar: Grammar | None = None
    """What the answer has to match."""
    logprobs: int | None = None
    """How many likely tokens are to be told beside each that was drawn; None: not even that one's."""
    echo: bool = False
    """Each answer begins with its prompt."""

    @property
    def answers(self) -> int:
        """How many there will be."""
        return self.n * max(1, len(self.prompts))


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """The vectors of `inputs` are wanted, each a text or token ids."""

    id: str
    inputs: tuple[str | tuple[int, ...], ...]
    dimensions: int | None = None
    """Only so many of each vector, from its beginning; None: all."""
    deadline: float | None = None
    """On the machine's monotonic clock, seconds; None: as long as it takes."""


@dataclass(frozen=True, slots=True)
class RankingRequest:
    """How well each of `documents` answers `query` is wanted."""

    id: str
    query: str
    documents: tuple[str, ...]
    deadline: float | None = None
    """On the machine's monotonic clock, seconds; None: as long as it takes."""
