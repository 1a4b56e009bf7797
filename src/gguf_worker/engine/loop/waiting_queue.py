"""Whose turn it is: the order of the requests that wait for a sequence.

Who had to make room comes first. Then the higher priority, which grows with waiting, so that nobody starves;
then whoever's user has the fewest requests running, so that one who floods takes no more than a fair share;
then who came first. A user's waiting counts the less, the more of theirs runs already.

Pure: the time is an argument, in seconds of any clock.
"""

from __future__ import annotations

import heapq
import sys
from collections.abc import Iterator, Mapping

from gguf_worker.engine.loop.sequence import Sequence

AGEING_SECONDS = 15.0
"""Waiting that lifts a request by one priority, while its user has nothing running."""
_LAST = sys.maxsize
"""An id that comes after all others of the same moment."""


class WaitingQueue:
    """Sequences that wait, in no order until somebody asks for the next."""

    def __init__(self) -> None:
        self._waiting: dict[int, Sequence] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, sequence: Sequence) -> bool:
        return sequence.id in self._waiting

    def add(self, sequence: Sequence) -> None:
        self._waiting[sequence.id] = sequence

    def remove(self, sequence: Sequence) -> None:
        del self._waiting[sequence.id]

    def in_turn(self, now: float, running: Mapping[str, int]) -> Iterator[Sequence]:
        """All that wait, whose turn it is first; `running` counts each user's running requests."""
        turns = [(_turn(each, now, running), each) for each in self._waiting.values()]
        heapq.heapify(turns)  # the first few are asked for, seldom all
        while turns:
            yield heapq.heappop(turns)[1]

    def ahead_of(self, priority: int, user: str, now: float, running: Mapping[str, int]) -> int:
        """How many that wait come before one who comes `now`."""
        newcomer = Sequence.of(_LAST, [0], 1, priority=priority, user=user, arrived=now)
        turn = _turn(newcomer, now, running)
        return sum(_turn(each, now, running) < turn for each in self._waiting.values())


def _turn(sequence: Sequence, now: float, running: Mapping[str, int]) -> tuple[float, ...]:
    """Compares as earlier whoever comes first."""
    busy = running.get(sequence.user, 0) if sequence.user else 0
    lifted = (now - sequence.arrived) // (AGEING_SECONDS * (1 + busy))
    resumed = sequence.preempted
    return (not resumed, -(sequence.priority + lifted), busy, sequence.arrived, sequence.id)
