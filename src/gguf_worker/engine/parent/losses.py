"""Counts how often the engine process was lost in a row, and decides whether and when to start
another.

Pure: no clock, no process.
"""

from __future__ import annotations

from collections.abc import Sequence

from gguf_worker.engine.parent.process import ProcessLost

BACKOFF_SECONDS = (0.0, 0.0, 1.0, 4.0, 16.0)
"""Seconds of pause before a start, by the number of losses in a row before it."""
_MOST_LOSSES = 5
"""Processes lost in a row for no known reason, with no answer finished between them, before the
client gives up."""


class Losses:
    """The losses in a row since the last finished answer.

    `backoff`: seconds to pause before a start, by the number of losses before it; the last value
    holds for all further losses. `tries`: how often the first start is tried.
    """

    def __init__(self, backoff: Sequence[float], tries: int) -> None:
        self._backoff = backoff
        self._tries = tries
        self._in_a_row = 0
        self._last: ProcessLost | None = None

    def add(self, loss: ProcessLost, *, blamed: bool = False) -> None:
        """Count a lost process, unless a request or a text is known to be to blame: others are
        answered by the next process, however many of such come."""
        self._last = loss
        if not blamed:
            self._in_a_row += 1

    def reset(self) -> None:
        """Begin to count anew, after an answer was finished."""
        self._in_a_row = 0

    @property
    def pause(self) -> float:
        """Seconds to wait before the next start."""
        return self._backoff[min(self._in_a_row, len(self._backoff) - 1)]

    def too_many(self, *, started: bool) -> bool:
        """Tell whether to give up; `started`: a process has been ready before."""
        return self._in_a_row >= (_MOST_LOSSES if started else self._tries)

    @property
    def reason(self) -> str:
        """The reason for giving up, for people."""
        times = f", {self._in_a_row} times in a row" if self._in_a_row > 1 else ""
        return f"{self._last or ''}{times}"

    @property
    def lacking(self) -> bool:
        """Tells whether the last process had too little memory for the model."""
        return self._last is not None and self._last.cause == "lacking"
