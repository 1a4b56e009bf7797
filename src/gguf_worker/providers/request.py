"""Requests as a provider takes them: for generated answers, for vectors, for scores.

They depend on no wire format and no engine message, so they are the same for a local and a remote
provider.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Literal

from gguf_worker.generation import Grammar, Sampling

SEEDS = 2**32 - 1
"""Number of seeds, which count from 0; this number itself means "draw one" to llama.cpp."""


class Priority(IntEnum):
    """Order of requests where not all can be computed at once: higher ones go first."""

    LOW = 0
    NORMAL = 1
    HIGH = 2


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """The rule by which an answer may, must not, or has to call a tool; `name`: this tool only."""

    mode: Literal["auto", "none", "required"] = "auto"
    name: str | None = None


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A request for answers to `messages` (a chat) or to `prompts`: exactly one of the two."""

    id: str
    sampling: Sampling
    prompts: tuple[str | tuple[int, ...], ...] = ()
    """Texts, or token ids. Each prompt gets `n` answers, those of the first prompt first."""
    suffix: str = ""
    """Text after the answer, which fills the gap between a text prompt and this text."""
    messages: tuple[Mapping[str, Any], ...] | None = None
    """Messages with `role`, `content` (text or None), and fields for the chat template."""
    drop_oldest: bool = False
    """Leave out the oldest turns of a chat that is too long."""
    template_options: Mapping[str, Any] = field(default_factory=dict)
    """Extra variables for the chat template, such as `enable_thinking`."""
    max_tokens: int | None = None
    """0: the prompt is computed, and the answer is empty."""
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    deadline: float | None = None
    """Seconds on the machine's monotonic clock; None: no limit."""
    min_interval: float = 0.0
    """The least seconds between two deltas: more frequent ones are joined into a larger one.

    The first and the last delta come at once.
    """
    whole: bool = False
    """Nobody is shown a part of an answer before its end: each comes in one piece, and may be begun
    anew until then."""
    n: int = 1
    """Answers to each prompt, sampled independently: with a seed s, answer i has the seed s + i."""
    priority: Priority = Priority.NORMAL
    user: str = ""
    """The user that it is sent for, so that users get fair shares; "": no known user."""
    tools: tuple[Mapping[str, Any], ...] = ()
    """Functions that the model may call, as OpenAI writes them and templates read them."""
    tool_choice: ToolChoice = ToolChoice()
    parallel_calls: bool = True
    """One answer may call several tools."""
    grammar: Grammar | None = None
    """A grammar that the answer has to match."""
    logprobs: int | None = None
    """The most likely tokens to report beside each sampled one, as a number; None: no logprobs."""
    echo: bool = False
    """Begin each answer with its prompt."""

    @property
    def answers(self) -> int:
        """The number of answers to all prompts."""
        return self.n * max(1, len(self.prompts))


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """A request for the vectors of `inputs`, each of them a text or token ids."""

    id: str
    inputs: tuple[str | tuple[int, ...], ...]
    dimensions: int | None = None
    """The number of leading elements of each vector to return; None: all."""
    deadline: float | None = None
    """Seconds on the machine's monotonic clock; None: no limit."""


@dataclass(frozen=True, slots=True)
class RankingRequest:
    """A request for scores: how well each of `documents` answers `query`."""

    id: str
    query: str
    documents: tuple[str, ...]
    deadline: float | None = None
    """Seconds on the machine's monotonic clock; None: no limit."""
