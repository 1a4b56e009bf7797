"""Requests of which one may have spoiled the numbers of all: they are tried alone, one at a time.

What is no number in a cell makes no numbers of others that share the memory with it, even if it is
masked. So it cannot be told by the rows that are lost who was first. A suspect that gets a token
while nobody else is computed, in a memory that holds nothing but what other innocents left, is
innocent; one that gets none is not. Pure: the time is an argument, in seconds of any clock.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Container

from gguf_worker.engine.loop.sequence import Sequence


class Suspects:
    """The sequences that were interrupted, those of them under suspicion, and the one on trial.

    Newcomers wait until all that were interrupted have got a further token, and then as long again:
    however many requests spoil the numbers, the others have half of the time to go on.
    """

    def __init__(self) -> None:
        self.on_trial: Sequence | None = None
        self._untried: list[Sequence] = []
        self._interrupted: set[Sequence] = set()
        self._began: float | None = None  # None: nobody waits to go on
        self._closed_until = -math.inf

    def __bool__(self) -> bool:
        """Tell whether anybody is under suspicion."""
        return self.on_trial is not None or bool(self._untried)

    def add(self, interrupted: Collection[Sequence], innocent: Container[int], now: float) -> None:
        """Suspect all that were interrupted, in order of admission, but the `innocent` ids."""
        assert not self
        suspects = [each for each in interrupted if each.id not in innocent]
        # Of equal ones the youngest comes last: its numbers are the newest.
        self._untried = sorted(suspects, key=lambda each: -len(each.tokens))
        self._interrupted.update(interrupted)
        self._began = now if self._began is None else self._began

    def next(self) -> Sequence:
        """Put the shortest one on trial: all others wait for it."""
        assert self.on_trial is None
        self.on_trial = self._untried.pop()
        return self.on_trial

    def advance(self, sequence: Sequence) -> bool:
        """Note that a sequence got a token; True if that ends its trial."""
        if sequence is not self.on_trial:
            self._interrupted.discard(sequence)
            return False
        self.on_trial = None
        return True

    def remove(self, sequence: Sequence) -> bool:
        """Forget a request that has ended; True if it was on trial, which clears the others of
        suspicion: if there is another one, numbers will be lost again."""
        self._interrupted.discard(sequence)
        if sequence in self._untried:
            self._untried.remove(sequence)
        if sequence is not self.on_trial:
            return False
        self.on_trial = None
        self._untried.clear()
        return True

    def settle(self, now: float) -> None:
        """Note it if all that were interrupted have gone on."""
        if self._began is not None and not self._interrupted:
            self._closed_until = now + (now - self._began)
            self._began = None

    def closes_out(self, newcomer: Sequence, now: float) -> bool:
        """Tell whether a request has to wait for those that were interrupted."""
        waits = self._began is not None or now < self._closed_until
        return waits and not newcomer.preempted

    def open(self) -> None:
        """Let newcomers in: nobody runs who was interrupted."""
        self._closed_until = -math.inf
