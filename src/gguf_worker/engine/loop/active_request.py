"""A request as the loop holds it: its sequence, sampler, text and unsent results.

Knows no schedule and no clock.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass, field
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
from gguf_worker.engine.loop.backend import Backend
from gguf_worker.engine.loop.sequence import Sequence
from gguf_worker.engine.loop.text_stream import TextStream
from gguf_worker.engine.messages import Delta, EngineRequest, Failure
from gguf_worker.generation import Sampling, TokenLogprob, Usage


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

    def next_delta(self, text: str) -> Delta:
        """Return a delta with `text` and the unsent tokens, which count as sent from then on.

        Where logprobs are reported, those tokens stay unsent all of whose text is held back: they
        may be of a stop string, which has none.
        """
        self.text_begun = True
        if not (self.unsent_logprobs or self.unsent_scores):  # the usual case
            sent, self.unsent_tokens = self.unsent_tokens, 0
            return Delta(self.sequence.id, text, sent)
        kept = self._held_tokens() if self.unsent_logprobs else 0
        sent, self.unsent_tokens = self.unsent_tokens - kept, kept
        delta = Delta(
            self.sequence.id,
            text,
            sent,
            logprobs=tuple(self.unsent_logprobs[:sent]),
            prompt_logprobs=tuple(self.unsent_scores),
        )
        del self.unsent_logprobs[:sent]
        self.unsent_scores.clear()
        return delta

    def last_delta(
        self, text: str = "", finish: str | None = None, failure: Failure | None = None
    ) -> Delta:
        """Return the last delta, with `text`, all unsent tokens, and the usage."""
        sequence = self.sequence
        return Delta(
            sequence.id,
            text,
            self.unsent_tokens,
            finish,
            failure,
            usage=Usage(sequence.prompt_length, sequence.generated, sequence.cached),
            logprobs=tuple(self.unsent_logprobs),
            stop=self.text.stopped_by if self.stopped_by is None else self.stopped_by,
            prompt_logprobs=tuple(self.unsent_scores),
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
    active = ActiveRequest(
        sequence=sequence,
        sampler=backend.sampler(sampling, seed, prompt),
        text=TextStream(request.stop, inclusive=request.show_stop),
        deadline=request.deadline,
        banned=banned,
        pieces=vocabulary.spelled if request.show_special else vocabulary.pieces,
        logprobs=request.logprobs,
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
    return active


def _in_vocabulary(sampling: Sampling, size: int) -> Sampling:
    """Drop biases of token ids outside the vocabulary, which would index beyond the logits."""
    if all(0 <= token < size for token, _ in sampling.logit_bias):
        return sampling
    bias = tuple((token, bias) for token, bias in sampling.logit_bias if 0 <= token < size)
    return msgspec.structs.replace(sampling, logit_bias=bias)
