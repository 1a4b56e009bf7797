"""Estimates how long requests wait for a slot, from the requests that have ended lately.

By Little's law, slots that are held for s seconds on average become free at a rate of slots / s.
Pure: durations in seconds, and times of any clock, are arguments.
"""

from __future__ import annotations

import math

LONGEST = 60.0
"""The longest that OpenAI's and Anthropic's clients wait when they are told to: they come at once
when they are told a longer time."""
_APART = 0.1
"""The least seconds between two turns: callers come no more exactly than that."""
_GUESS = 3.0
"""Seconds for which a request holds its slot, while none has ended. Too short a guess costs a try
of those that are refused, too long a one only their time."""
_MARGIN = 1.5
"""Factor by which refused requests come later than slots become free on average."""
_WEIGHT = 0.1
"""Weight of the newest request, against all before it."""


class WaitEstimator:
    """A moving average of how long requests hold one of `slots`."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._held: float | None = None
        self._promised = -math.inf  # the time of the last turn that was given

    def note(self, seconds: float) -> None:
        """Note for how many seconds a request held its slot."""
        self._held = (
            seconds if self._held is None else self._held + _WEIGHT * (seconds - self._held)
        )

    def wait(self, queued: int) -> float:
        """Return the seconds until the last of `queued` requests gets a slot; 0 while nothing is
        known."""
        return 0.0 if self._held is None else queued * self._held / self._slots

    def turn(self, now: float, since: float) -> float:
        """Return the seconds after which a refused request should come again.

        All that are refused get turns one after the other, as slots become free: who came at once
        would only be refused again. `since`: the time when the oldest of those that run came, for
        it may be all that is known of how long they take.
        """
        held = self._held
        if held is None:
            held = max(_GUESS, 2 * (now - since))
        turn = max(self._promised, now) + max(_APART, _MARGIN * held / self._slots)
        self._promised = min(turn, now + LONGEST)
        return self._promised - now

    def forget_turns(self) -> None:
        """Begin with the first turn again: those who have one don't come."""
        self._promised = -math.inf
