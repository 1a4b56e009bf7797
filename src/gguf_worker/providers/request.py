"""The domain's own words for a request and its answer: a wish, pieces of text, and how it ended.

No wire format and no engine message is known here, so a remote provider's answer and a local one's look the
same to whoever asked.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any, Literal, Protocol

from gguf_worker.engine import Grammar, Sampling, TokenLogprob

SEEDS = 2**32 - 1
"""There are so many seeds, from 0; this number itself means "draw one" to llama.cpp."""


class Priority(IntEnum):
    """Who goes first where not all can be computed at once."""

    LOW = 0
    NORMAL = 1
    HIGH = 2


class Channel(StrEnum):
    """What a text of an answer is."""

    CONTENT = "content"
    REASONING = "reasoning"


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Whether an answer may, must not, or has to call a tool; `name`: this one and no other."""

    mode: Literal["auto", "none", "required"] = "auto"
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Wish:
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
    pace: float = 0.0
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
    """Text of answer `index` that has come since its piece before; `tokens` of them.

    `logprobs`, where they are wanted: one for each token, in order, also of tokens without text.
    """

    text: str
    tokens: int
    index: int = 0
    channel: Channel = Channel.CONTENT
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class CallPiece:
    """More of a tool call of answer `index`: the arguments' JSON text that has come, `tokens` of it.

    `call` counts the calls of one answer from 0. The first piece of a call has its `id` and `name`, and no
    later one has. Arguments may be cut anywhere; together they are what the model wrote.
    """

    call: int
    text: str
    tokens: int
    index: int = 0
    id: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """Answer `index` is complete while others go on; its fields are those of Finish."""

    reason: str
    index: int
    stop: str | None = None


@dataclass(frozen=True, slots=True)
class Finish:
    """The end of the last answer, `index`, and so of all; `usage` is what they cost together.

    `reason`: `stop` (its own end or a stop string), `length` (a limit was reached) or `tool_calls`. `stop`:
    the stop string that ended it.
    """

    reason: str
    usage: Usage
    index: int = 0
    stop: str | None = None


Part = Piece | CallPiece | Ended | Finish


@dataclass(frozen=True, slots=True)
class EmbeddingWish:
    """The vectors of `inputs` are wanted, each a text or token ids."""

    id: str
    inputs: tuple[str | tuple[int, ...], ...]
    dimensions: int | None = None
    """Only so many of each vector, from its beginning; None: all."""
    deadline: float | None = None
    """On the machine's monotonic clock, seconds; None: as long as it takes."""


@dataclass(frozen=True, slots=True)
class Embeddings:
    """One vector for each input, in order: little-endian float32 of Euclidean length 1."""

    vectors: tuple[bytes, ...]
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class RankingWish:
    """How well each of `documents` answers `query` is wanted."""

    id: str
    query: str
    documents: tuple[str, ...]
    deadline: float | None = None
    """On the machine's monotonic clock, seconds; None: as long as it takes."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """One score for each document, in order, the model's own: the higher the better, of any sign."""

    scores: tuple[float, ...]
    prompt_tokens: int


class Provider(Protocol):
    """Somewhere an answer can come from."""

    def answer(self, wish: Wish) -> AsyncGenerator[Part, None]:
        """Pieces, then exactly one Finish; or a WorkerError. Closing the generator cancels.

        Of several answers the pieces come as they are made, each answer but the last to end has an
        Ended, and one error is the end of them all.
        """
        ...

    async def tokens(self, source: str | Wish, *, add_special: bool) -> list[int]:
        """The tokens of a text, or of the prompt that a chat becomes."""
        ...

    async def text(self, tokens: Sequence[int]) -> str:
        """The text of tokens."""
        ...

    async def embed(self, wish: EmbeddingWish) -> Embeddings:
        """The vectors of texts; InvalidRequest where the model gives none. Cancelling the task cancels."""
        ...

    async def rank(self, wish: RankingWish) -> Ranking:
        """The scores of documents; InvalidRequest where the model gives none. Cancelling the task cancels."""
        ...
