"""One answer's state in its grammar: which tokens may come next, and whether it is complete.

Knows no request, no logits and no sampler.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from llguidance import LLMatcher

Forbidden = npt.NDArray[np.bool_]
"""A flag for each token of the vocabulary: True if it may not come next."""

_REASON_CHARACTERS = 300


class ConstraintFailed(Exception):
    """An answer cannot be held to its grammar any longer."""


class Constraint:
    """Holds one answer to its grammar.

    `forbidden` and `accept` take turns, one token at a time; tokens that end an answer are not
    accepted. `vocabulary` is the model's number of tokens, `words` llguidance's, which may be
    larger.
    """

    def __init__(self, matcher: LLMatcher, vocabulary: int, words: int) -> None:
        self._matcher = matcher
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
        may.
        """
        if self._forbidden is None:
            with _as_failure():
                self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
            self._check(self._matcher.is_error() or not self._bits.any())
            bits = np.unpackbits(
                self._bits.view(np.uint8), count=self._vocabulary, bitorder="little"
            )
            self._forbidden = bits == 0
        return self._forbidden

    def accept(self, token: int) -> None:
        """Advance by `token`, which must not be forbidden; raises ConstraintFailed when that is
        impossible."""
        self._forbidden = None
        with _as_failure():
            self._check(not self._matcher.consume_token(token))

    def _check(self, failed: bool) -> None:
        if failed:
            raise ConstraintFailed(in_short(self._matcher.get_error() or "no token can follow"))


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
    text = " ".join(text.split()).removesuffix(".")
    return text if len(text) <= _REASON_CHARACTERS else text[:_REASON_CHARACTERS] + "…"
