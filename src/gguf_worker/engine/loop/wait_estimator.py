"""Estimates how long requests wait for a slot, from the requests that have ended lately.

By Little's law, slots that are held for s seconds on average become free at a rate of slots / s.
Pure: durations in seconds are arguments.
"""

from __future__ import annotations

_WEIGHT = 0.1
"""Weight of the newest request, against all before it."""


class WaitEstimator:
    """A moving average of how long requests hold one of `slots`."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._held: float | None = None

    def note(self, seconds: float) -> None:
        """Note for how many seconds a request held its slot."""
        self._held = (
            seconds if self._held is None else self._held + _WEIGHT * (seconds - self._held)
        )

    def wait(self, queued: int) -> float:
        """Return the seconds until the last of `queued` requests gets a slot; 0 while nothing is
        known."""
        return 0.0 if self._held is None else queued * self._held / self._slots
