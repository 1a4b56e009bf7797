"""A request as the loop holds it: its sequence, sampler, text and unsent results.

Knows no schedule and no clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from gguf_worker.engine.drawing import (
    Banned,
    Constraint,
    TokenBans,
    TokenSampler,
    token_logprob,
)
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
    deadline: float | None
    banned: npt.NDArray[np.int32]
    """Tokens that are never drawn for it."""
    pieces: list[bytes]
    """The bytes of every token; special ones are spelled out or empty, as the request wants."""
    ends: frozenset[int]
    """Tokens that end it."""
    logprobs: int
    """Number of likeliest tokens to report beside each drawn one; -1: report none at all."""
    thoughts: Thoughts
    openers: npt.NDArray[np.int32]
    """Tokens that open a thought by themselves, banned when its budget is used up."""
    prompt_logprobs: int = -1
    """The same for the tokens of the prompt."""
    bans: TokenBans | None = None
    """What more is never drawn, where that depends on its answer so far."""
    stops: frozenset[int] = frozenset()
    """Those of them that the request names, beside the model's own."""
    stopped_by: int | None = None
    """That of them which ended it."""
    show_stop: bool = False
    """Tells whether that is part of its text."""
    least: int = 0
    """Tokens of its answer in which no stop string is looked for."""
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
    ahead_bytes: int = 0
    """Bytes of text held back whose token was sent, where logprobs are reported."""
    unsent_scores: list[TokenLogprob] = field(default_factory=list)
    """Log probabilities of the prompt's tokens that were not sent yet."""

    def banned_now(self) -> Banned:
        """Return the tokens that may not be drawn next, without a grammar."""
        if self.bans is None:
            return self.banned
        return self.bans.after(self.sequence.tokens, self.sequence.generated)

    def forbidden_now(self) -> Banned:
        """Return the tokens that may not be drawn next, by its grammar and its rules.

        Raises ConstraintFailed if the grammar cannot go on.
        """
        assert self.constraint is not None
        forbidden = self.constraint.forbidden()
        if self.bans is None:
            return forbidden
        return self.bans.beside(forbidden, self.sequence.tokens, self.sequence.generated)

    def add_scores(self, rows: npt.NDArray[np.float32], spelled: Items[bytes]) -> Delta:
        """Return a delta with the log probabilities of the next prompt tokens, by the logits of
        those before them; `spelled` has the bytes of every token."""
        sequence = self.sequence
        assert sequence.scored is not None
        for row in rows:
            sequence.scored += 1
            token = sequence.tokens[sequence.scored]
            scores = token_logprob(row, token, self.prompt_logprobs, spelled)
            self.unsent_scores.append(scores)
        delta = Delta(sequence.id, prompt_logprobs=tuple(self.unsent_scores))
        self.unsent_scores.clear()
        return delta

    def _held_tokens(self) -> int:
        """Count the unsent tokens all of whose text is held back."""
        count, held = 0, self.text.held_bytes
        for token in reversed(self._unsent):
            size = len(self.pieces[token])
            if not held or size > held:
                break
            count, held = count + 1, held - size
        self.ahead_bytes = held
        return count

    @property
    def _unsent(self) -> list[int]:
        return self.sequence.tokens[len(self.sequence.tokens) - self.unsent_tokens :]

    def drop_logprobs_behind(self, text: str) -> None:
        """Drop the log probabilities of unsent tokens that begin behind `text`, all that is sent:
        they are those of a stop string."""
        length, at = len(text.encode()), self.ahead_bytes
        for number, token in enumerate(self._unsent[: len(self.unsent_logprobs)]):
            if at >= length:
                del self.unsent_logprobs[number:]
                return
            at += len(self.pieces[token])

    def text_of(self, token: int) -> str:
        """Add the text of a drawn token, and return the text that may be sent now."""
        thinking = self.text.thinking
        early = self.least and self.sequence.generated <= self.least
        text = (self.text.skip if early else self.text.feed)(self.pieces[token])
        if thinking or self.text.thinking:
            self.thoughts.note(self.text, before=thinking)
            if len(self.openers):
                self.ban_openers()
        return text

    def ban_openers(self) -> None:
        """Ban the tokens that open a thought, once its budget is used up."""
        if self.thoughts.spent:
            self.banned = np.concatenate([self.banned, self.openers])
            if self.bans is not None:
                self.bans.add(self.openers)
            self.openers = self.openers[:0]

    def next_delta(self, text: str) -> Delta:
        """Return a delta with `text` and the unsent tokens, which count as sent from then on.

        Where logprobs are reported, those tokens stay unsent all of whose text is held back: they
        may be of a stop string, which has none.
        """
        usage = None if self.text_begun else self._usage()
        self.text_begun = True
        if not (self.unsent_logprobs or self.unsent_scores):  # the usual case
            sent, self.unsent_tokens = self.unsent_tokens, 0
            thought = self.text.thinking
            return Delta(self.sequence.id, text, sent, usage=usage, thought=thought)
        kept = self._held_tokens() if self.unsent_logprobs else 0
        sent, self.unsent_tokens = self.unsent_tokens - kept, kept
        delta = Delta(
            self.sequence.id,
            text,
            sent,
            usage=usage,
            logprobs=tuple(self.unsent_logprobs[:sent]),
            thought=self.text.thinking,
            prompt_logprobs=tuple(self.unsent_scores),
        )
        del self.unsent_logprobs[:sent]
        self.unsent_scores.clear()
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
            stop=self.text.stopped_by if self.stopped_by is None else self.stopped_by,
            thought=self.text.thinking,
            prompt_logprobs=tuple(self.unsent_scores),
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
    silent: bool = False
    """Tells whether it adds no text, since it ends the answer."""


def activate(
    request: EngineRequest,
    sequence: Sequence,
    prompt: list[int],
    backend: Backend,
    seed: int,
    *,
    ends: frozenset[int],
    bad_words: Items[Items[int]] = (),
) -> ActiveRequest:
    """Make the loop's state of a request, with a sampler seeded by `seed`, to be closed later.

    `ends` are the model's own ends of an answer; `bad_words` has the tokens of each.
    """
    vocabulary, rules = backend.vocabulary, request.rules
    sampling = _in_vocabulary(request.sampling, backend.info.vocabulary)
    banned = vocabulary.suppressed
    own_ends = frozenset[int]() if request.ignore_eos else ends
    if request.ignore_eos:
        stops = np.array(rules.stops, np.int64)
        banned = np.concatenate([banned, np.setdiff1d(vocabulary.ends, stops)])
    bans = None
    if rules.least or rules.allowed or bad_words:
        size = len(vocabulary.pieces)
        bans = TokenBans(rules, always=banned, ends=vocabulary.ends, words=bad_words, size=size)
    text = TextStream(request.stop, request.outline, inclusive=request.show_stop)
    thoughts, openers = _thoughts(request, vocabulary)
    thoughts.end_if_spent(text)
    active = ActiveRequest(
        sequence=sequence,
        sampler=backend.sampler(sampling, seed, prompt),
        text=text,
        deadline=request.deadline,
        banned=banned,
        pieces=vocabulary.spelled if request.show_special else vocabulary.pieces,
        logprobs=request.logprobs,
        thoughts=thoughts,
        openers=np.array(openers, np.int32),
        prompt_logprobs=request.prompt_logprobs,
        bans=bans,
        ends=own_ends.union(rules.stops) if rules.stops else own_ends,
        stops=frozenset(rules.stops) - own_ends,
        show_stop=request.show_stop,
        least=rules.least,
    )
    if request.prompt_logprobs >= 0:
        sequence.scored = 0
        active.unsent_scores.append(TokenLogprob(prompt[0], vocabulary.spelled[prompt[0]], None))
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
