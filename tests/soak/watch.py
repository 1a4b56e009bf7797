"""What the honest readers saw: for how long each stream was silent, and what broke one off."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.paths import ROOT
from tests.soak.honest import END, LAG, TEXT

STREAMS = 8
HARMLESS = frozenset({END, "deadline_exceeded", "overloaded"})
"""Ends that an honest stream may have while a crowd is asking: also to be told to come later."""
_LEAST_GAP = 0.05
_JUST_NOW = 0.5
"""A gap that began within these seconds before a turn is the turn's own."""


@dataclass(frozen=True, slots=True)
class Gap:
    """A time in which a stream said nothing; `seconds`: without those in which its reader did not
    run."""

    began: float
    ended: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Broken:
    """The error that ended an honest stream."""

    at: float
    code: str


class Observer:
    """Reads the lines of the honest readers, on whichever thread."""

    def __init__(self) -> None:
        self._silences: list[tuple[float, float]] = []
        self._broken: list[Broken] = []
        self._last: dict[int, float] = {}
        """When each stream that has begun said something last."""
        self._lags: list[tuple[float, float]] = []
        self._lock = threading.Lock()

    def read(self, line: str) -> None:
        at, number, what = line.split(maxsplit=2)
        with self._lock:
            self._note(float(at), int(number), what.strip())

    def _note(self, at: float, number: int, what: str) -> None:
        if what.startswith(LAG):
            self._lags.append((at - float(what.split()[1]), at))
            return
        last = self._last.pop(number, None)
        if last is not None and at - last >= _LEAST_GAP:
            self._silences.append((last, at))
        if what == TEXT:
            self._last[number] = at
        elif what not in HARMLESS:
            self._broken.append(Broken(at, what))

    def worst(self, began: float, now: float) -> Gap:
        """Return the longest gap since `began`, those that still last included."""
        with self._lock:
            silences = [each for each in self._silences if each[0] >= began - _JUST_NOW]
            silences += [(last, now) for last in self._last.values()]
            gaps = [self._gap(*each) for each in silences if each[1] > began]
        return max(gaps, key=lambda gap: gap.seconds, default=Gap(now, now, 0.0))

    def _gap(self, began: float, ended: float) -> Gap:
        lag = 0.0
        for lag_began, lag_ended in reversed(self._lags):
            if lag_ended < began:
                break
            lag += max(0.0, min(ended, lag_ended) - max(began, lag_began))
        return Gap(began, ended, ended - began - lag)

    def broken_since(self, began: float) -> list[Broken]:
        with self._lock:
            return [each for each in self._broken if each.at >= began]

    def all_spoke_since(self, at: float) -> bool:
        """Return whether every stream has said something after this time."""
        with self._lock:
            return sum(last > at for last in self._last.values()) == STREAMS


@contextmanager
def honest_streams(port: int, tokens: int, seed: int) -> Iterator[Observer]:
    """Have STREAMS honest readers ask a worker for streams of `tokens` tokens, again and again."""
    observer = Observer()
    given = map(str, (port, STREAMS, tokens, seed))
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.soak.honest", *given],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    lines = process.stdout

    def read() -> None:
        for line in lines:
            observer.read(line)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield observer
    finally:
        process.kill()
        process.wait()
        thread.join()
        lines.close()
