"""One answer's state in its grammar: which tokens may come next, and whether it is complete.

Knows no request, no logits and no sampler.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from llguidance import LLMatcher

Forbidden = npt.NDArray[np.bool_]
"""A flag for each token of the vocabulary: True if it may not come next."""

_REASON_CHARACTERS = 300
_LEFT_OUT = "<non-verbose/>"
"""Stands in llguidance's reasons for what it was told to leave out."""
MASK_SECONDS = 0.02
"""Time that an answer may take for each token's mask and step, as often as it likes."""
SPARE_SECONDS = 1.0
"""Time that an answer may take beyond that, all of its tokens together: a grammar's parts are slow
when they are first met."""
_LIMITS = ("Too many items", "items; max is", "fuel", "lexer error")
"""Parts of llguidance's reasons that tell of its own limits of work."""


class ConstraintFailed(Exception):
    """An answer cannot be held to its grammar any longer."""


class GrammarTooCostly(ConstraintFailed):
    """A grammar takes too much work for each token; the message is for the caller."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"it is too much work for each token ({reason}); make it simpler, or such that a text "
            "can be read in one way only"
        )


class Constraint:
    """Holds one answer to its grammar.

    `forbidden` and `accept` take turns, one token at a time; tokens that end an answer are not
    accepted. `vocabulary` is the model's number of tokens, `words` llguidance's, which may be
    larger. `clock` has the seconds of work of this thread: what it waits for others is no fault of
    the grammar.
    """

    def __init__(
        self,
        matcher: LLMatcher,
        vocabulary: int,
        words: int,
        clock: Callable[[], float] = time.thread_time,
    ) -> None:
        self._matcher = matcher
        self._clock = clock
        self._overdrawn = -math.inf  # seconds; the first mask is computed beside the loop, and free
        self._vocabulary = vocabulary
        self._bits = np.zeros(-(-words // 32), np.int32)
        self._forbidden: Forbidden | None = None

    @property
    def complete(self) -> bool:
        """Tells whether the answer matches, and nothing can follow but its end."""
        return self._matcher.is_stopped()

    def forbidden(self) -> Forbidden:
        """Return flags of shape (vocabulary,): True for tokens that may not come next.

        Tokens that end an answer may come where it matches. Raises ConstraintFailed when no token
        may, and GrammarTooCostly when the masks took too long.
        """
        if self._forbidden is None:
            began = self._clock()
            self._forbidden = self._computed()
            over = self._overdrawn + self._clock() - began - MASK_SECONDS
            self._overdrawn = max(0.0, over)
        if self._overdrawn > SPARE_SECONDS:
            raise GrammarTooCostly("it takes too long")
        return self._forbidden

    def accept(self, token: int) -> None:
        """Advance by `token`, which must not be forbidden; raises ConstraintFailed when that is
        impossible."""
        self._forbidden = None
        began = self._clock()
        with _as_failure():
            self._check(not self._matcher.consume_token(token))
        self._overdrawn += self._clock() - began

    def _computed(self) -> Forbidden:
        with _as_failure():
            self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        self._check(self._matcher.is_error() or not self._bits.any())
        bits = np.unpackbits(self._bits.view(np.uint8), count=self._vocabulary, bitorder="little")
        flags: Forbidden = bits == 0
        return flags

    def _check(self, failed: bool) -> None:
        if failed:
            reason = in_short(self._matcher.get_error() or "no token can follow")
            costly = any(limit in reason for limit in _LIMITS)
            raise GrammarTooCostly(reason) if costly else ConstraintFailed(reason)


@contextlib.contextmanager
def _as_failure() -> Iterator[None]:
    """Turn a panic in Rust, which is no Exception, into a failure of this answer only."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, ConstraintFailed):
        raise
    except BaseException as error:
        raise ConstraintFailed(in_short(repr(error))) from error


def in_short(text: str) -> str:
    """Return a reason in one line, cut if it is long."""
    text = " ".join(text.replace(_LEFT_OUT, "").split()).removesuffix(".")
    return text if len(text) <= _REASON_CHARACTERS else text[:_REASON_CHARACTERS] + "…"
