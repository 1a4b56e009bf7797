"""Reports steps to the parent, and sends signs of life.

Reports of short steps are collected and go out together, unless an answer begins or ends in them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from gguf_worker.engine.loop.scheduler import Scheduler
from gguf_worker.engine.messages import Delta, Step
from gguf_worker.engine.texts import Embedder

BEAT_SECONDS = 0.5
"""Seconds without a message after which a sign of life is sent."""


@dataclass(slots=True)
class _Report:
    """The steps since the last report was sent."""

    steps: int = 0
    rows: int = 0
    seconds: float = 0.0
    preempted: int = 0
    urgent: bool = False
    """A reader waits for it: it has the first text of an answer, or an end."""
    deltas: list[Delta] = field(default_factory=list)
    intervals: list[float] = field(default_factory=list)


class StepReporter:
    """Collects the results of steps, and sends them to the parent by `send`.

    Reports of steps are sent no more often than every `interval` seconds unless they are urgent.
    The counts in them are those of `scheduler` and `embedder` (None: there is none). `now` is the
    clock.
    """

    def __init__(
        self,
        send: Callable[[Step], None],
        scheduler: Scheduler,
        embedder: Embedder | None,
        now: Callable[[], float],
        interval: float,
    ) -> None:
        self._send = send
        self._scheduler = scheduler
        self._embedder = embedder
        self._now = now
        self._interval = interval
        self._report = _Report()
        self._reported_at = -math.inf
        self._sent_at = now()

    @property
    def has_deltas(self) -> bool:
        """Tells whether deltas wait to be sent."""
        return bool(self._report.deltas)

    def add_delta(self, delta: Delta, *, first: bool = False) -> None:
        """Add a delta; `first`: it has the first text of its answer."""
        self._report.deltas.append(delta)
        self._report.urgent = self._report.urgent or first or delta.last

    def add_interval(self, seconds: float) -> None:
        """Add the time from one token of a sequence to its next."""
        self._report.intervals.append(seconds)

    def add_step(self, rows: int, seconds: float) -> None:
        """Count a step of `rows`; without rows only its time, since nothing was computed."""
        self._report.steps += rows > 0
        self._report.rows += rows
        self._report.seconds += seconds

    def add_preempted(self, count: int) -> None:
        """Count preempted requests."""
        self._report.preempted += count

    def urge(self) -> None:
        """Have the next report sent soon, though it may hold no delta."""
        self._report.urgent = True

    def send(self) -> None:
        """Send the report now."""
        self._reported_at = self._now()
        report, self._report = self._report, _Report()
        self._send_step(report)

    def send_if_due(self) -> None:
        """Send the report, or leave it for a later step if nothing in it is urgent."""
        if self._report.urgent or self._now() - self._reported_at >= self._interval:
            self.send()

    def send_or_beat(self) -> None:
        """Send the report if there is something in it, else a sign of life."""
        if self._report.deltas or self._report.urgent:
            self.send()
        else:
            self.beat()

    def beat(self) -> None:
        """Send a sign of life, if nothing was sent for a while."""
        if self._now() - self._sent_at >= BEAT_SECONDS:
            self._send_step(_Report())

    def announce(self, ids: tuple[int, ...]) -> None:
        """Name the requests that are computed for the first time by the next step.

        Sent before the step runs: if it kills the process, the parent knows which requests were in
        it.
        """
        self._send_step(_Report(), ids)

    def _send_step(self, report: _Report, begun: tuple[int, ...] = ()) -> None:
        cells = self._scheduler.cells
        running, waiting = self._scheduler.running, self._scheduler.waiting
        if self._embedder is not None:
            running += self._embedder.running
            waiting += self._embedder.waiting
        self._sent_at = self._now()
        self._send(
            Step(
                rows=report.rows,
                running=running,
                waiting=waiting,
                kv_used=cells.pinned,
                kv_cached=cells.used - cells.pinned,
                kv_total=cells.total,
                preempted=report.preempted,
                seconds=report.seconds,
                begun=begun,
                deltas=tuple(report.deltas),
                intervals=tuple(report.intervals),
                steps=report.steps,
            )
        )
