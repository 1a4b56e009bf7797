"""How long a place takes to become free, judged by the requests that have ended lately.

By Little's law `slots` places that are each held for so many seconds come free at a rate of slots / seconds.
Pure: durations in seconds are arguments.
"""

from __future__ import annotations

_WEIGHT = 0.1
"""Of the newest request, against all before it."""


class WaitEstimator:
    """A moving average of how long requests hold one of `slots` places."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._held: float | None = None

    def note(self, seconds: float) -> None:
        """A request held its place for so long."""
        self._held = (
            seconds if self._held is None else self._held + _WEIGHT * (seconds - self._held)
        )

    def wait(self, queued: int) -> float:
        """Seconds until the last of `queued` requests gets a place; 0 while nothing is known."""
        return 0.0 if self._held is None else queued * self._held / self._slots
