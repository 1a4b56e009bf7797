"""Requests as a provider takes them: for generated answers, for vectors, for scores.

They depend on no wire format and no engine message, so they are the same for a local and a remote
provider.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Literal

from gguf_worker.generation import Grammar, Sampling, TokenRules

SEEDS = 2**32 - 1
"""Number of seeds, which count from 0; this number itself means "draw one" to llama.cpp."""


TEXT_PARAMETER = "input"
"""The parameter that holds a custom tool's text where it is called as a function."""


def text_parameters(regex: str | None) -> dict[str, Any]:
    """Return the parameters of a custom tool as those of a function; `regex`: its text matches."""
    text = {"type": "string"} | ({"pattern": f"^(?:{regex})$"} if regex is not None else {})
    return {
        "type": "object",
        "properties": {TEXT_PARAMETER: text},
        "required": [TEXT_PARAMETER],
        "additionalProperties": False,
    }


class Priority(IntEnum):
    """Order of requests where not all can be computed at once: higher ones go first."""

    LOW = 0
    NORMAL = 1
    HIGH = 2


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """The rule by which an answer may, must not, or has to call a tool; `name`: this tool only.

    `allowed`: these tools only, of those that the model knows of; empty: all of them.
    """

    mode: Literal["auto", "none", "required"] = "auto"
    name: str | None = None
    allowed: tuple[str, ...] = ()

    def may_call(self, name: str) -> bool:
        """Tell if the tool of this name may be called."""
        if self.mode == "none" or self.name not in (None, name):
            return False
        return not self.allowed or name in self.allowed


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
    thinking: bool | None = None
    """The answer begins with a thought, or has none; None: as the model is used to."""
    thinking_budget: int | None = None
    """Most tokens of an answer's thoughts; None: no limit."""
    ending: Literal["turn", "inside", "bare"] = "turn"
    """The end of a chat's prompt: the opening of the assistant's turn; the text of the last
    message, which the answer goes on from; or the end of the last message, and nothing more."""
    max_tokens: int | None = None
    """Most tokens of an answer; 0: the prompt is computed, and the answer is empty."""
    stop: tuple[str, ...] = ()
    show_stop: bool = False
    """Leave what ended the answer, a stop string or token, in its text."""
    ignore_eos: bool = False
    rules: TokenRules = field(default_factory=TokenRules)
    show_special: bool = False
    """Spell out the special tokens in the text, except those that end it."""
    truncate: int | None = None
    """Tokens of a prompt to keep, the last ones; -1: as many as fit."""
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
    """Functions that the model may call, and custom tools that take a text, as OpenAI writes them.

    A function that is `strict` is called with arguments that match its schema, or not at all.
    """
    tool_choice: ToolChoice = ToolChoice()
    parallel_calls: bool = True
    """One answer may call several tools."""
    grammar: Grammar | None = None
    """A grammar that the answer has to match."""
    logprobs: int | None = None
    """The most likely tokens to report beside each sampled one, as a number; None: no logprobs."""
    prompt_logprobs: int | None = None
    """The same for the tokens of the prompts, all of which are computed for that."""
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
