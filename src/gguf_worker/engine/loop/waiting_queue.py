"""The order of the requests that wait for a slot.

Preempted requests come first. Then higher priorities; a priority grows with waiting, so that no
request starves. Then the requests of users who have the fewest running, so that a user who floods
the worker gets no more than a fair share; then those that came first. Waiting counts less for a
user who has more running.

Pure: the time is an argument, in seconds of any clock.
"""

from __future__ import annotations

import heapq
import sys
from collections.abc import Iterator, Mapping

from gguf_worker.engine.loop.sequence import Sequence

AGEING_SECONDS = 15.0
"""Waiting time that lifts a request by one priority, while its user has nothing running."""
_LAST = sys.maxsize
"""An id that comes after all others of the same moment."""


class WaitingQueue:
    """Sequences that wait; they are sorted only when the next ones are needed."""

    def __init__(self) -> None:
        self._waiting: dict[int, Sequence] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, sequence: Sequence) -> bool:
        return sequence.id in self._waiting

    def add(self, sequence: Sequence) -> None:
        """Add a sequence."""
        self._waiting[sequence.id] = sequence

    def remove(self, sequence: Sequence) -> None:
        """Remove a sequence."""
        del self._waiting[sequence.id]

    def in_turn(self, now: float, running: Mapping[str, int]) -> Iterator[Sequence]:
        """Yield the sequences in order; `running` counts the running requests of each user."""
        turns = [(_turn(each, now, running), each) for each in self._waiting.values()]
        heapq.heapify(turns)  # not sorted: seldom more than the first few are needed
        while turns:
            yield heapq.heappop(turns)[1]

    def ahead_of(self, priority: int, user: str, now: float, running: Mapping[str, int]) -> int:
        """Count the sequences that come before a request that arrives `now`."""
        newcomer = Sequence.of(_LAST, [0], 1, priority=priority, user=user, arrived=now)
        turn = _turn(newcomer, now, running)
        return sum(_turn(each, now, running) < turn for each in self._waiting.values())


def _turn(sequence: Sequence, now: float, running: Mapping[str, int]) -> tuple[float, ...]:
    """Return the sort key of a waiting sequence: the smaller, the sooner its turn."""
    busy = running.get(sequence.user, 0) if sequence.user else 0
    lifted = (now - sequence.arrived) // (AGEING_SECONDS * (1 + busy))
    resumed = sequence.preempted
    return (not resumed, -(sequence.priority + lifted), busy, sequence.arrived, sequence.id)
