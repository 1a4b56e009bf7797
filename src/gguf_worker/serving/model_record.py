"""The swap policy's record of one model: its state, its requests, and its last failures.

Times are seconds of the policy's clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum

from gguf_worker.errors import EngineUnavailable, StartError, WorkerError

TIME_SLICE = 2.0
"""The length of a time slice, which counts while other models wait, in multiples of the time that
opening the model took."""
LINGER = 0.1
"""The time for which an unused model is not evicted, as a fraction of the time of opening it: a
caller that sends one request after the other may send the next one."""
RETRY_PAUSES = (5.0, 20.0, 60.0, 300.0)
"""Seconds before a model that could not be opened, or was lost, is tried again: one value for each
failure in a row, and the last for all further ones."""
_LONGEST_RETRY = 3600.0
"""Seconds: the longest pause that a server may ask for."""
_MANY_FAILURES = 3
"""The number of failures in a row, with pauses between, that make a model count as unservable."""
_SHORTEST_IDLE = 1e-3
"""Seconds: the shortest idle time that `eviction_cost` divides by."""


class ModelState(StrEnum):
    """The states of a model on its way into memory and out of it; the health shows these words."""

    ABSENT = "absent"
    FETCHING = "fetching"
    """It is being looked up, and perhaps downloaded; that takes no memory."""
    FETCHED = "fetched"
    """It is on this machine, and waits for memory."""
    OPENING = "opening"
    RESIDENT = "resident"
    CLOSING = "closing"


@dataclass(frozen=True, slots=True)
class ModelPolicy:
    """The rule for one model.

    `keep_alive`: seconds without a request after which it leaves memory; None: it leaves when
    others need its memory.
    """

    name: str
    keep_alive: float | None = None


@dataclass(frozen=True, slots=True)
class WaitingRequest:
    """A request that was not admitted yet."""

    arrived: float
    deadline: float
    weight: int
    no_evict: bool


@dataclass(slots=True)
class ModelRecord:
    """A model's record. Only the policy writes to it."""

    policy: ModelPolicy
    state: ModelState = ModelState.ABSENT
    since: float = 0.0
    """The time at which its state began."""
    load_seconds: float = 0.0
    """The seconds of its last opening; 0 before the first."""
    used_at: float = 0.0
    max_requests: int = 0
    """Requests that it can hold at once, those that wait in its engine included."""
    running: dict[int, int] = field(default_factory=dict)
    """The weights of the requests that were admitted, by their ids."""
    waiting: dict[int, WaitingRequest] = field(default_factory=dict)
    out_of_memory: bool = False
    """There was no memory for it, and it has not been opened since."""
    awaits_departure: bool = False
    """There was no memory for it, and no model has left memory since."""
    departures_seen: int = 0
    """The number of departures when it was last tried."""
    draining: bool = False
    """Its slice is over: it leaves after its running requests, and new ones wait for the next."""
    postponed: bool = False
    """It was put off once, because its start had failed beside others."""
    failed_alone: bool = False
    """Its start has failed with no other model in memory, and it has not been open since."""
    failures: int = 0
    """The number of failures in a row."""
    failed_for_good: bool = False
    """It was lost, or its last failure is lasting."""
    error: WorkerError | None = None
    """The error for callers, if it has failed."""
    retry_at: float = -math.inf

    @property
    def name(self) -> str:
        return self.policy.name

    @property
    def is_resident(self) -> bool:
        return self.state is ModelState.RESIDENT

    @property
    def is_idle(self) -> bool:
        """True if no request runs in it or waits for it."""
        return not self.running and not self.waiting

    @property
    def keep_alive_ends(self) -> float:
        """The time at which it leaves if it stays unused, even if no other needs its memory."""
        keep_alive = self.policy.keep_alive
        return math.inf if keep_alive is None else self.used_at + keep_alive

    @property
    def slice_ends(self) -> float:
        return self.since + TIME_SLICE * self.load_seconds

    @property
    def evictable_at(self) -> float:
        """The time from which it may be evicted, if it stays unused."""
        return min(self.slice_ends, self.used_at + LINGER * self.load_seconds)

    @property
    def first_arrival(self) -> float:
        return min(request.arrived for request in self.waiting.values())

    def enter(self, state: ModelState, now: float) -> None:
        self.state, self.since = state, now

    def admit(self, id: int, now: float) -> None:
        """Let a waiting request run."""
        self.running[id] = self.waiting.pop(id).weight
        self.used_at = now

    def holds(self, weight: int) -> bool:
        """Tell whether a request of this weight may run now.

        One that is too large for the model may run alone: the engine then refuses it with the
        reason.
        """
        taken = sum(self.running.values())
        return taken == 0 or taken + weight <= self.max_requests

    def eviction_cost(self, now: float) -> float:
        """Return the seconds that opening it again takes, divided by its idle seconds."""
        return self.load_seconds / max(now - self.used_at, _SHORTEST_IDLE)

    # Failures

    def fail(self, error: WorkerError, now: float) -> float:
        """Note a failure. Returns the seconds until the model may be tried again."""
        self.failed_for_good = _is_lasting(error)
        step = len(RETRY_PAUSES) - 1
        pause = RETRY_PAUSES[step if self.failed_for_good else min(self.failures, step)]
        pause = max(pause, min(error.retry_after or 0.0, _LONGEST_RETRY))
        self.failures += 1
        self.retry_at = now + pause
        self.out_of_memory = self.awaits_departure = self.postponed = False
        self.error = _public_error(self.name, error)
        return pause

    def is_paused(self, now: float) -> bool:
        """True if it has failed, and may not be tried again yet."""
        return self.error is not None and now < self.retry_at

    def is_unservable(self, now: float) -> bool:
        """True if it has failed, and is not likely to be served soon."""
        return self.is_paused(now) and (self.failed_for_good or self.failures >= _MANY_FAILURES)

    def retry_seconds(self, now: float) -> float:
        """Return the seconds until its next try, to a tenth; 0 if it has not failed."""
        return round(self.retry_at - now, 1) if self.is_paused(now) else 0.0

    def facts(self, now: float) -> dict[str, object]:
        """Return its state for the health, with its error if it has failed."""
        facts: dict[str, object] = {
            "state": "failed" if self.is_paused(now) else self.state.value,
            "running": len(self.running),
            "waiting": len(self.waiting),
        }
        if self.error is not None and self.is_paused(now):
            facts |= {"error": self.error.message, "retry_seconds": self.retry_seconds(now)}
        return facts


def _is_lasting(error: WorkerError) -> bool:
    """Tell whether the next try would fail too."""
    return isinstance(error, StartError) and error.permanent


def _public_error(name: str, error: WorkerError) -> WorkerError:
    """Return the error for requests to a model that failed."""
    if isinstance(error, StartError) and error.permanent:
        return error.replaced(message=f"The model {name!r} cannot be served: {error.message}")
    return EngineUnavailable(f"The model {name!r} cannot be served now: {error.message}")
