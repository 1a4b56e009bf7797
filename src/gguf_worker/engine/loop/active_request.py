"""A request as the loop holds it: its sequence, sampler, text and unsent results.

Knows no schedule and no clock.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from gguf_worker.engine.drawing import Constraint, TokenSampler
from gguf_worker.engine.loop.backend import Backend, ModelVocabulary
from gguf_worker.engine.loop.sequence import Sequence
from gguf_worker.engine.loop.text_stream import TextStream
from gguf_worker.engine.messages import Delta, EngineRequest, Failure
from gguf_worker.generation import Sampling, TokenLogprob, Usage


class Thoughts:
    """The thoughts of one answer: their tokens are counted, and end where `budget` is used up.

    `closings` are the tokens of the outline's closings.
    """

    def __init__(
        self, budget: int | None = None, closings: tuple[tuple[int, ...], ...] = ()
    ) -> None:
        self._budget = budget if closings else None
        self._closings = closings
        self._closed = 0  # thoughts that were ended here
        self._count = 0
        self._unsure = 0  # tokens of a thought, or of the mark that ends it
        self.forced: deque[int] = deque()
        """Tokens that come next, whatever the model would draw."""

    @property
    def tokens(self) -> int:
        """The number of tokens that are in thoughts."""
        return self._count + self._unsure

    @property
    def spent(self) -> bool:
        """Tells whether no token may be in a thought any more."""
        return self._budget is not None and self.tokens >= self._budget

    def note(self, text: TextStream, *, before: bool) -> None:
        """Count the last token, whose text was added to `text`; `before`: a thought was open."""
        if not (before and text.thinking):
            self._unsure = 0
        elif not self.forced:
            tokens = self._count + self._unsure + 1
            self._unsure = min(self._unsure + 1, text.undecided)
            self._count = tokens - self._unsure
            if self._budget is None or tokens < self._budget:
                return
        self.end_if_spent(text)

    def end_if_spent(self, text: TextStream) -> None:
        """Have the open thought end, if the budget is used up; its last character is left to
        become whole, and a mark by which the model ends the thought itself."""
        if self._budget is None or not (self.spent and text.thinking) or self.forced:
            return
        over = self.tokens - self._budget
        if text.within_character or (text.undecided and over < len(self._closings[0])):
            return
        self.forced += self._closings[min(self._closed, len(self._closings) - 1)]
        self._closed += 1


@dataclass(slots=True)
class ActiveRequest:
    """A request that has not ended. Times are on the loop's clock, in seconds."""

    sequence: Sequence
    sampler: TokenSampler
    text: TextStream
    ignore_eos: bool
    deadline: float | None
    banned: npt.NDArray[np.int32]
    """Tokens that are never drawn for it."""
    pieces: list[bytes]
    """The bytes of every token; special ones are spelled out or empty, as the request wants."""
    logprobs: int
    """Number of likeliest tokens to report beside each drawn one; -1: report none at all."""
    thoughts: Thoughts
    openers: npt.NDArray[np.int32]
    """Tokens that open a thought by themselves, banned when its budget is used up."""
    constraint: Constraint | None = None
    """State of its grammar; None while that is being compiled, or without a grammar."""
    admitted_at: float | None = None
    last_token_at: float | None = None
    unsent_tokens: int = 0
    """Tokens whose text was not sent yet."""
    unsent_logprobs: list[TokenLogprob] = field(default_factory=list)
    """Log probabilities of those tokens."""
    text_begun: bool = False
    """Tells whether any of its text was sent."""

    def text_of(self, token: int) -> str:
        """Add the text of a drawn token, and return the text that may be sent now."""
        thinking = self.text.thinking
        text = self.text.feed(self.pieces[token])
        if thinking or self.text.thinking:
            self.thoughts.note(self.text, before=thinking)
            if len(self.openers):
                self.ban_openers()
        return text

    def ban_openers(self) -> None:
        """Ban the tokens that open a thought, once its budget is used up."""
        if self.thoughts.spent:
            self.banned = np.concatenate([self.banned, self.openers])
            self.openers = self.openers[:0]

    def next_delta(self, text: str) -> Delta:
        """Return a delta with `text` and all unsent tokens, which count as sent from then on."""
        delta = Delta(
            self.sequence.id,
            text,
            self.unsent_tokens,
            usage=None if self.text_begun else self._usage(),
            logprobs=tuple(self.unsent_logprobs),
            thought=self.text.thinking,
        )
        self.unsent_tokens, self.text_begun = 0, True
        self.unsent_logprobs.clear()
        return delta

    def last_delta(
        self, text: str = "", finish: str | None = None, failure: Failure | None = None
    ) -> Delta:
        """Return the last delta, with `text`, all unsent tokens, and the usage."""
        return Delta(
            self.sequence.id,
            text,
            self.unsent_tokens,
            finish,
            failure,
            usage=self._usage(),
            logprobs=tuple(self.unsent_logprobs),
            stop=self.text.stopped_by,
            thought=self.text.thinking,
        )

    def _usage(self) -> Usage:
        sequence = self.sequence
        return Usage(
            sequence.prompt_length,
            sequence.generated,
            sequence.cached,
            reasoning_tokens=self.thoughts.tokens,
        )

    def completed_by(self, token: int) -> bool:
        """Advance the grammar by `token`; True if it is complete then.

        Raises ConstraintFailed if it cannot go on.
        """
        assert self.constraint is not None
        self.constraint.accept(token)
        return self.constraint.complete


class DrawnToken(NamedTuple):
    """A token that was drawn, but has no text yet."""

    request: ActiveRequest
    token: int
    finish: str | None = None
    """The reason why the request ends with it, "stop" or "length"; None: the request goes on."""
    is_end: bool = False
    """Tells whether it is an end-of-answer token, which adds no text."""


def activate(
    request: EngineRequest, sequence: Sequence, prompt: list[int], backend: Backend, seed: int
) -> ActiveRequest:
    """Make the loop's state of a request, with a sampler seeded by `seed`, to be closed later."""
    vocabulary = backend.vocabulary
    sampling = _in_vocabulary(request.sampling, backend.info.vocabulary)
    banned = vocabulary.suppressed
    if request.ignore_eos:
        banned = np.concatenate([banned, vocabulary.ends])
    text = TextStream(request.stop, request.outline)
    thoughts, openers = _thoughts(request, vocabulary)
    thoughts.end_if_spent(text)
    active = ActiveRequest(
        sequence=sequence,
        sampler=backend.sampler(sampling, seed, prompt),
        text=text,
        ignore_eos=request.ignore_eos,
        deadline=request.deadline,
        banned=banned,
        pieces=vocabulary.spelled if request.show_special else vocabulary.pieces,
        logprobs=request.logprobs,
        thoughts=thoughts,
        openers=np.array(openers, np.int32),
    )
    active.ban_openers()
    return active


def _thoughts(request: EngineRequest, vocabulary: ModelVocabulary) -> tuple[Thoughts, list[int]]:
    """Return the state of a request's thoughts, and the tokens that open one by themselves.

    The outline's texts are the worker's own, and short.
    """
    outline = request.outline
    if outline is None or request.thought_budget is None:
        return Thoughts(), []

    def read(text: str) -> tuple[int, ...]:
        return tuple(chain(*vocabulary.read(text, add_special=False, parse_special=True)))

    marks = {
        mark.text
        for phase in outline.phases
        if phase.kind == "content"
        for mark in phase.marks
        if outline.phases[mark.next].kind == "thought"
    }
    openers = [tokens[0] for mark in sorted(marks) if len(tokens := read(mark)) == 1]
    closings = tuple(read(text) for text in outline.closings)
    return Thoughts(request.thought_budget, closings), openers


def _in_vocabulary(sampling: Sampling, size: int) -> Sampling:
    """Drop biases of token ids outside the vocabulary, which would index beyond the logits."""
    if all(0 <= token < size for token, _ in sampling.logit_bias):
        return sampling
    bias = tuple((token, bias) for token, bias in sampling.logit_bias if 0 <= token < size)
    return msgspec.structs.replace(sampling, logit_bias=bias)
