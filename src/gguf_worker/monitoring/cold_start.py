"""The seconds of the worker's start, by phase, for the first request's answer."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from gguf_worker.events import Event, PhaseDone


class ColdStart:
    """The phases of the start, as events report them. Thread-safe."""

    def __init__(self) -> None:
        self._phases: dict[str, float] = {}
        self._first = threading.Lock()  # taken by the first request, and never released

    def observe(self, event: Event) -> None:
        if isinstance(event, PhaseDone):
            self._phases[event.phase] = event.seconds

    def phases_for(self, loading: Mapping[str, float] | None) -> Mapping[str, float] | None:
        """Return the phases that a new request has waited for; None if it waited for nothing.

        `loading`: the phases of loading its model, if it waits for that; else the worker's first
        request gets the phases of the worker's start.
        """
        first = self._first.acquire(blocking=False)
        return self._phases if loading is None and first else loading
