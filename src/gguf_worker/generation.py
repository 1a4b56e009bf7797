"""The types that the engine and every provider share: sampling, grammars, outlines, usage.

Knows neither a model nor a process: a remote provider uses these types without an engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, ClassVar, Literal

import msgspec


class Channel(StrEnum):
    """The two kinds of text in an answer."""

    CONTENT = "content"
    REASONING = "reasoning"


class Sampling(msgspec.Struct, frozen=True, array_like=True):
    """Sampler settings with llama.cpp's names and defaults.

    `temperature <= 0` is greedy. `top_k <= 0`, `top_p >= 1`, `min_p <= 0`, `typical_p >= 1`,
    `xtc_probability <= 0`, `dry_multiplier <= 0`, `top_n_sigma <= 0`, `mirostat = 0` and the
    neutral penalties switch their sampler off. `seed` None: one is drawn.
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    top_n_sigma: float = -1.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None


JSON_STYLE: Mapping[str, Any] = {
    # One optional space after a comma or a colon, and a line break with an indent between any two
    # parts of a document, which models that are used to it need to begin a list. All is bounded:
    # JSON allows any number of blanks, and small models may write them for ever.
    "whitespace_flexible": False,
    "whitespace_pattern": "\\n\\x20{0,32}",
    "item_separator": ",\\x20?",
    "key_separator": ":\\x20?",
}
"""The white space in answers held to JSON schemas, in llguidance's words (`x-guidance`)."""


class Grammar(msgspec.Struct, frozen=True, array_like=True):
    """A grammar that the whole answer has to match.

    `kind`: "json_schema" (`text` is one, as JSON), "regex", or "lark" (in llguidance's dialect).
    """

    MOST_CHARACTERS: ClassVar[int] = 128 * 1024
    """Most characters of a grammar and its inner one together."""

    kind: str
    text: str
    inner: Grammar | None = None
    """The grammar that `@inner` in a lark text stands for; it has no inner one itself."""

    @property
    def size(self) -> int:
        """The characters of its texts together."""
        return len(self.text) + (self.inner.size if self.inner else 0)


class PhaseMark(msgspec.Struct, frozen=True, array_like=True):
    """A text that ends a phase of an answer; `next` is the number of the phase that it begins.

    `first`: it is a mark only while the answer's content is nothing but white space.
    """

    text: str
    next: int
    first: bool = False


class Phase(msgspec.Struct, frozen=True, array_like=True):
    """A phase of an answer: its content, a thought, or what callers are not shown as text, such
    as a call. It lasts until the first of its `marks`."""

    kind: Literal["content", "thought", "other"]
    marks: tuple[PhaseMark, ...] = ()


class Outline(msgspec.Struct, frozen=True, array_like=True):
    """The phases that an answer may have, by which the engine tells content from the rest.

    Marks belong to no phase's text. No mark of a phase begins with another one.
    """

    phases: tuple[Phase, ...]
    begin: int = 0
    """The number of the phase in which the answer begins."""
    closings: tuple[str, ...] = ()
    """The texts that end a thought: the first time it is ended, the second, and so on."""


class TokenRules(msgspec.Struct, frozen=True, array_like=True):
    """Rules about the tokens of an answer, beside the model's own."""

    least: int = 0
    """Tokens before which nothing ends the answer: no end token, no stop string."""
    stops: tuple[int, ...] = ()
    """Tokens that end the answer, as the model's own do."""
    allowed: tuple[int, ...] = ()
    """The only tokens that may be drawn; empty: all may."""
    bad_words: tuple[str, ...] = ()
    """Texts whose tokens, in this order, are never all drawn."""


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """A token: its id, its bytes and its log probability. Special tokens are spelled out.

    `logprob` is None for the first token of a prompt, before which there is nothing. `top` has the
    likeliest tokens of that position in order: id, bytes, log probability; behind them the token
    itself, if it is none of them. Logarithms are natural, of the model's own probabilities before
    any sampler.
    """

    token: int
    piece: bytes
    logprob: float | None
    top: tuple[tuple[int, bytes, float], ...] = ()


class Usage(msgspec.Struct, frozen=True, array_like=True):
    """The cost of an answer in tokens and seconds.

    `queue_seconds`: until its computation began; `prefill_seconds`: from there to the first token;
    `ttft_seconds`: both together; `seconds`: until the end.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    queue_seconds: float = 0.0
    prefill_seconds: float = 0.0
    ttft_seconds: float = 0.0
    seconds: float = 0.0
    reasoning_tokens: int = 0
    """Those of `completion_tokens` that are in thoughts; the marks around these don't count."""

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens per second after the first token; None for fewer than two tokens."""
        decoding = self.seconds - self.ttft_seconds
        if self.completion_tokens < 2 or decoding <= 0:
            return None
        return (self.completion_tokens - 1) / decoding
