"""Frozen facts that the worker reports. Knows nothing of their observers.

Times are seconds, sizes bytes, and durations come from a monotonic clock.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """The ways in which a request ends; each request ends in exactly one of them."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    ERROR = "error"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class RequestDone:
    """One request ended. `code` is the error's, None where there was none."""

    request_id: str
    job_id: str
    route: str
    outcome: Outcome
    stream: bool
    seconds: float
    code: str | None = None
    queue_seconds: float | None = None
    prefill_seconds: float | None = None
    ttft_seconds: float | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True)
class StepDone:
    """The engine computed one step, or several short ones; with no rows, it is idle and alive.

    `seconds`, `rows` and `preempted` are sums over all `steps`.
    """

    seconds: float
    rows: int
    running: int
    waiting: int
    kv_used: int
    """KV cells of running requests."""
    kv_total: int
    preempted: int
    token_intervals: tuple[float, ...]
    """Seconds since the token before, for each sequence that got a further token."""
    kv_cached: int = 0
    """KV cells of ended requests, kept until other requests need them."""
    steps: int = 1
    model: str = ""
    """The engine's model; "" where a worker has only one."""


@dataclass(frozen=True, slots=True)
class PhaseDone:
    """A phase of the cold start ended: `interpreter`, `imports`, `resolve`, `verify` (which runs
    beside the others), `engine`, `load`, `warmup`; `total` is all of them."""

    phase: str
    seconds: float


@dataclass(frozen=True, slots=True)
class ModelReady:
    """A model is in memory and answers."""

    name: str
    path: str
    seconds: float
    context: int
    sequences: int
    kv_cells: int
    """0 where nothing is generated."""
    pooling: str = "none"
    """Pooling of a text's tokens to an embedding (mean, cls, last) or a score (rank), or none."""


@dataclass(frozen=True, slots=True)
class ModelUnloaded:
    """A model has left memory. `cause`: room (for another), keep_alive (it ran out), lost."""

    name: str
    cause: str


@dataclass(frozen=True, slots=True)
class ModelFailed:
    """One of several models cannot be served. It is not tried again for `retry_seconds`."""

    name: str
    code: str
    reason: str
    retry_seconds: float


@dataclass(frozen=True, slots=True)
class EngineLost:
    """The engine process is gone or was killed. `cause`: exit, signal, wedged."""

    cause: str
    detail: str
    interrupted: int
    resubmitted: int
    model: str = ""
    """As in StepDone; so too in EngineBack."""


@dataclass(frozen=True, slots=True)
class EngineBack:
    """The engine process runs again, `seconds` after it was lost."""

    restarts: int
    seconds: float
    model: str = ""


Event = (
    RequestDone
    | StepDone
    | PhaseDone
    | ModelReady
    | ModelUnloaded
    | ModelFailed
    | EngineLost
    | EngineBack
)
Observer = Callable[[Event], None]
"""Called with each event, on the thread where it happened; must be quick and must not raise."""
