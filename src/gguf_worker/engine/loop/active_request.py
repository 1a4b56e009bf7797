"""A request as the loop holds it: its sequence, sampler, text and unsent results.

Knows no schedule and no clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from gguf_worker.engine.drawing import Constraint, TokenSampler
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
    ignore_eos: bool
    deadline: float | None
    banned: npt.NDArray[np.int32]
    """Tokens that are never drawn for it."""
    pieces: list[bytes]
    """The bytes of every token; special ones are spelled out or empty, as the request wants."""
    logprobs: int
    """Number of likeliest tokens to report beside each drawn one; -1: report none at all."""
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

    def next_delta(self, text: str) -> Delta:
        """Return a delta with `text` and all unsent tokens, which count as sent from then on."""
        delta = Delta(
            self.sequence.id,
            text,
            self.unsent_tokens,
            usage=None if self.text_begun else self._usage(),
            logprobs=tuple(self.unsent_logprobs),
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
        )

    def _usage(self) -> Usage:
        sequence = self.sequence
        return Usage(sequence.prompt_length, sequence.generated, sequence.cached)

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
    return ActiveRequest(
        sequence=sequence,
        sampler=backend.sampler(sampling, seed, prompt),
        text=TextStream(request.stop),
        ignore_eos=request.ignore_eos,
        deadline=request.deadline,
        banned=banned,
        pieces=vocabulary.spelled if request.show_special else vocabulary.pieces,
        logprobs=request.logprobs,
    )


def _in_vocabulary(sampling: Sampling, size: int) -> Sampling:
    """Drop biases of token ids outside the vocabulary, which would index beyond the logits."""
    if all(0 <= token < size for token, _ in sampling.logit_bias):
        return sampling
    bias = tuple((token, bias) for token, bias in sampling.logit_bias if 0 <= token < size)
    return msgspec.structs.replace(sampling, logit_bias=bias)
