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
"""Processes lost in a row, none of which has computed anything, before the client gives up."""
_MOST_WITH_REQUESTS = 20
"""Processes lost with no request answered between them, although they computed trial requests,
before the client gives up: then no request fares well on this machine, whoever sent it."""


class Losses:
    """The losses in a row since the last finished answer.

    When a process dies that had requests, they or the machine may be at fault. The next process
    tells: it is `doubtful`, and gets a trial request of the client's own. If it computes this, the
    losses before were the requests' fault (`acquit`); if it dies, it was the machine's.

    `backoff`: seconds to pause before a start, by the number of losses before it; the last value
    holds for all further losses. `tries`: how often the first start is tried.
    """

    def __init__(self, backoff: Sequence[float], tries: int) -> None:
        self._backoff = backoff
        self._tries = tries
        self._in_a_row = 0
        self._unanswered = 0  # as `_in_a_row`, not counted anew after a trial request
        self._last: ProcessLost | None = None
        self._doubtful = False

    def add(self, loss: ProcessLost, *, by_text: bool = False, with_requests: bool = False) -> None:
        """Count a lost process that had been sent requests, or none.

        One that died `by_text`, while it tokenised one, isn't counted: that is most likely its
        cause, and other texts are read by the next one, however many of such come.
        """
        self._last = loss
        self._doubtful = self._doubtful or with_requests or by_text
        if not by_text:
            self._in_a_row += 1
            self._unanswered += 1

    @property
    def doubtful(self) -> bool:
        """Tells whether it is unknown if requests or the machine were to blame for the losses."""
        return self._doubtful

    def acquit(self) -> None:
        """Lay the losses on the requests, after a process has computed the trial request."""
        self._in_a_row = 0
        self._doubtful = False

    def reset(self) -> None:
        """Begin to count anew, after a request was answered."""
        self._in_a_row = self._unanswered = 0
        self._doubtful = False

    @property
    def pause(self) -> float:
        """Seconds to wait before the next start."""
        return self._backoff[min(self._in_a_row, len(self._backoff) - 1)]

    def too_many(self, *, started: bool) -> bool:
        """Tell whether to give up; `started`: a process has been ready before."""
        if self._in_a_row >= (_MOST_LOSSES if started else self._tries):
            return True
        return self._unanswered >= _MOST_WITH_REQUESTS

    @property
    def reason(self) -> str:
        """The reason for giving up, for people."""
        times = f", {self._unanswered} times in a row" if self._unanswered > 1 else ""
        return f"{self._last or ''}{times}"

    @property
    def lacking(self) -> bool:
        """Tells whether the last process had too little memory for the model."""
        return self._last is not None and self._last.cause == "lacking"
