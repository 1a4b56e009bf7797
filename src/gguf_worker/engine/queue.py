"""Whose turn it is: the order of the requests that wait for a sequence.

Who had to make room comes first. Then the higher priority, which grows with waiting, so that nobody starves;
then whoever's user has the fewest requests running, so that one who floods takes no more than a fair share;
then who came first. A user's waiting counts the less, the more of theirs runs already.

Pure: the time is an argument, in seconds of any clock.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from gguf_worker.engine.sequence import Sequence

AGEING_SECONDS = 15.0
"""Waiting that lifts a request by one priority, while its user has nothing running."""


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

    def next(
        self, now: float, running: Mapping[str, int], passed: Collection[int]
    ) -> Sequence | None:
        """Whose turn it is, but for the ids `passed`; `running` counts each user's running requests."""
        ready = (each for each in self._waiting.values() if each.id not in passed)
        return min(ready, key=lambda each: _turn(each, now, running), default=None)


def _turn(sequence: Sequence, now: float, running: Mapping[str, int]) -> tuple[float, ...]:
    """Compares as earlier whoever comes first."""
    busy = running.get(sequence.user, 0) if sequence.user else 0
    lifted = (now - sequence.arrived) // (AGEING_SECONDS * (1 + busy))
    resumed = sequence.preempted
    return (not resumed, -(sequence.priority + lifted), busy, sequence.arrived, sequence.id)
