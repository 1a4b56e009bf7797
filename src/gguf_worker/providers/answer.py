"""Answers as a provider gives them: deltas of text and tool calls, then an end; vectors; scores."""

from __future__ import annotations

from dataclasses import dataclass

from gguf_worker.generation import Channel, TokenLogprob, Usage


@dataclass(frozen=True, slots=True)
class TextDelta:
    """New text of answer `index`, made of `tokens` tokens.

    `logprobs`, if asked for: one for each token, in order, also for tokens without text, but not
    for marks, stop strings and the token that ends the answer.
    `prompt_logprobs`: those of the next tokens of the answer's prompt, which come first.
    """

    text: str
    tokens: int
    index: int = 0
    channel: Channel = Channel.CONTENT
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    usage: Usage | None = None
    """The cost so far, in the first delta of an answer; None: it is not known."""


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """More of a tool call of answer `index`: JSON text of its arguments, made of `tokens` tokens.

    The text of a `custom` tool's call is its input, and no JSON.

    `call` counts the calls of one answer from 0. The first delta of a call has its `id` and `name`,
    and no later one has. Arguments may be cut anywhere; together they are the text that the model
    wrote.
    """

    call: int
    text: str
    tokens: int
    index: int = 0
    id: str | None = None
    name: str | None = None
    custom: bool = False
    usage: Usage | None = None
    """As in a TextDelta."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of answer `index` while others go on; the fields are those of Finish."""

    reason: str
    index: int
    stop: str | int | None = None


@dataclass(frozen=True, slots=True)
class Finish:
    """The end of the last answer, `index`, and so of all; `usage` is their cost together.

    `reason`: `stop` (its own end or a stop string), `length` (a limit was reached) or `tool_calls`.
    `stop`: the stop string or token that ended it. `warnings`: sentences about what was not done as
    asked.
    """

    reason: str
    usage: Usage
    index: int = 0
    stop: str | int | None = None
    warnings: tuple[str, ...] = ()


Part = TextDelta | ToolCallDelta | Ended | Finish


@dataclass(frozen=True, slots=True)
class Embeddings:
    """One vector for each input, in order: little-endian float32, of Euclidean length 1."""

    vectors: tuple[bytes, ...]
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Ranking:
    """One score for each document, in order: the model's own, of any sign; higher is better."""

    scores: tuple[float, ...]
    prompt_tokens: int
