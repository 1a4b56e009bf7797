"""Frozen facts that the worker reports. Who listens, and what they make of them, is not known here.

Times are seconds, sizes bytes, and durations come from a monotonic clock.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """How a request ended; every request ends with exactly one of these."""

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
    """The engine computed one step, or several short ones (or, idle, says that it is alive: rows = 0).

    `seconds`, `rows` and `preempted` are those of all `steps` together.
    """

    seconds: float
    rows: int
    running: int
    waiting: int
    kv_used: int
    """Cells of running requests."""
    kv_total: int
    preempted: int
    token_intervals: tuple[float, ...]
    """Seconds since the token before, for each sequence that got a further token."""
    kv_cached: int = 0
    """Cells of ended requests, kept until others need them."""
    steps: int = 1


@dataclass(frozen=True, slots=True)
class PhaseDone:
    """A part of the cold start ended: `interpreter`, `imports`, `resolve`, `verify` (beside the
    others), `engine`, `load`, `warmup`; `total` is all of it."""

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
    """How the tokens of a text become one embedding (mean, cls, last) or score (rank), where they do."""


@dataclass(frozen=True, slots=True)
class EngineLost:
    """The engine process is gone or was killed. `cause`: exit, signal, wedged."""

    cause: str
    detail: str
    interrupted: int
    resubmitted: int


@dataclass(frozen=True, slots=True)
class EngineBack:
    """The engine process runs again, `seconds` after it was lost."""

    restarts: int
    seconds: float


Event = RequestDone | StepDone | PhaseDone | ModelReady | EngineLost | EngineBack
Observer = Callable[[Event], None]
"""Told each event, on the thread where it happened; must be quick and must not raise."""
