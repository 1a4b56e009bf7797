"""The worker's state, for load balancers and for people.

The application reports the life cycle (`starting`, `ready`, `draining`, `dead`), and events report
the rest. `degraded` is derived on demand, from what has happened lately.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from gguf_worker.errors import Overloaded
from gguf_worker.events import (
    EngineBack,
    EngineLost,
    Event,
    ModelFailed,
    ModelReady,
    ModelUnloaded,
    RequestDone,
    StepDone,
)

DEGRADED_AFTER_LOSS = 60.0
"""Seconds for which the worker is degraded after a lost engine is back, or a model has failed."""

DEGRADED_AFTER_REFUSAL = 10.0
"""Seconds for which the worker is degraded after it has refused a request."""


class WorkerState(StrEnum):
    """The state of the worker. It serves in `ready` and `degraded`."""

    STARTING = "starting"
    READY = "ready"
    DEGRADED = "degraded"
    DRAINING = "draining"
    DEAD = "dead"


_AFTER_FINAL = {
    WorkerState.DRAINING: {WorkerState.DEAD},
    WorkerState.DEAD: set[WorkerState](),
}
"""The states that may follow a final one."""


@dataclass(slots=True)
class _EngineHealth:
    """The newest step of one engine, and its loss."""

    step: StepDone | None = None
    step_at: float | None = None
    lost: tuple[float, str] | None = None
    back_at: float | None = None

    def troubles(self, now: float, timeout: float) -> Iterator[tuple[float, str]]:
        """Yield each trouble: the time since which it lasts, and a sentence."""
        if self.lost is not None:
            at, cause = self.lost
            if self.back_at is None:
                yield at, f"the engine was lost ({cause}) and is being restarted"
            elif now < self.back_at + DEGRADED_AFTER_LOSS:
                yield at, f"the engine was lost ({cause}) and has been restarted"
        if self.step_at is not None and now - self.step_at > timeout:
            yield self.step_at, "the engine gives no sign of life"


class Health:
    """The worker's state. Thread-safe.

    `engine_timeout`: seconds without a step (idle ones included) after which the engine counts as
    stuck.
    """

    def __init__(self, now: Callable[[], float], *, engine_timeout: float) -> None:
        self._now = now
        self._engine_timeout = engine_timeout
        self._lock = threading.Lock()
        self._began = self._since = now()
        self._state = WorkerState.STARTING
        self._reason: str | None = None
        self._engines: dict[str, _EngineHealth] = {}
        """The engines by their models' names; with one model only, the name is empty."""
        self._models: list[ModelReady] = []
        """The models in memory, the newest last."""
        self._restarts = 0
        self._failed: tuple[float, str] | None = None
        self._refused: tuple[float, float] | None = None

    def starting(self, reason: str | None = None) -> None:
        """Enter `starting`, also after `ready`. `reason`: why the worker starts again."""
        self._enter(WorkerState.STARTING, reason)

    def ready(self) -> None:
        """Enter `ready`."""
        self._enter(WorkerState.READY, None)

    def draining(self) -> None:
        """Enter `draining`: no new requests come, and running ones may end. Only `dead` follows."""
        self._enter(WorkerState.DRAINING, "the worker is shutting down")

    def dead(self, reason: str) -> None:
        """Enter `dead`: the worker will not serve again. No other state follows."""
        self._enter(WorkerState.DEAD, reason)

    def observe(self, event: Event) -> None:
        with self._lock:
            match event:
                case StepDone():
                    engine = self._engine(event.model)
                    engine.step, engine.step_at = event, self._now()
                case ModelReady():
                    self._forget(event.name)
                    self._models.append(event)
                case ModelUnloaded():
                    self._forget(event.name)
                    self._engines.pop(event.name, None)
                case ModelFailed():
                    self._failed = (self._now(), event.name)
                case EngineLost():
                    self._engines[event.model] = _EngineHealth(lost=(self._now(), event.cause))
                case EngineBack():
                    self._restarts += 1
                    self._engine(event.model).back_at = self._now()
                case RequestDone() if event.code == Overloaded.code:
                    now = self._now()
                    since = self._refusing_since(now)
                    self._refused = (now if since is None else since, now)

    @property
    def state(self) -> WorkerState:
        with self._lock:
            return self._derived_state(self._now())[0]

    def snapshot(self) -> dict[str, Any]:
        """Return all that is known, JSON-safe; ages and durations in seconds."""
        with self._lock:
            now = self._now()
            state, reason, since = self._derived_state(now)
            steps = [each.step for each in self._engines.values() if each.step is not None]
            ages = [
                now - each.step_at for each in self._engines.values() if each.step_at is not None
            ]
            return {
                "state": state.value,
                "reason": reason,
                "state_seconds": round(now - since, 3),
                "uptime_seconds": round(now - self._began, 3),
                "last_step_seconds": round(max(ages), 3) if ages else None,
                "running": sum(step.running for step in steps),
                "waiting": sum(step.waiting for step in steps),
                "kv_used": sum(step.kv_used for step in steps),
                "kv_cached": sum(step.kv_cached for step in steps),
                "kv_total": sum(step.kv_total for step in steps),
                "engine_restarts": self._restarts,
                "model": _model_facts(self._models[-1]) if self._models else None,
            }

    def _engine(self, model: str) -> _EngineHealth:
        if model not in self._engines:
            self._engines[model] = _EngineHealth()
        return self._engines[model]

    def _forget(self, model: str) -> None:
        self._models = [each for each in self._models if each.name != model]

    def _enter(self, state: WorkerState, reason: str | None) -> None:
        with self._lock:
            if state not in _AFTER_FINAL.get(self._state, {state}):
                return
            if state is not self._state:
                self._since = self._now()
            self._state, self._reason = state, reason

    def _derived_state(self, now: float) -> tuple[WorkerState, str | None, float]:
        """Return the state, its reason, and the time since which it lasts."""
        if self._state is not WorkerState.READY:
            return self._state, self._reason, self._since
        troubles = self._troubles(now)
        if troubles:
            since, reason = min(troubles)
            return WorkerState.DEGRADED, reason, max(since, self._since)
        return WorkerState.READY, None, max([self._since, *self._degraded_until()])

    def _troubles(self, now: float) -> list[tuple[float, str]]:
        found: list[tuple[float, str]] = []
        for engine in self._engines.values():
            found += engine.troubles(now, self._engine_timeout)
        if self._failed is not None and now < self._failed[0] + DEGRADED_AFTER_LOSS:
            found.append((self._failed[0], f"the model {self._failed[1]} cannot be served"))
        refusing_since = self._refusing_since(now)
        if refusing_since is not None:
            found.append((refusing_since, "the queue is full: requests are being refused"))
        return found

    def _refusing_since(self, now: float) -> float | None:
        """Return the time at which the present run of refusals began; None if it is over."""
        if self._refused is None or now >= self._refused[1] + DEGRADED_AFTER_REFUSAL:
            return None
        return self._refused[0]

    def _degraded_until(self) -> list[float]:
        ends = [
            each.back_at + DEGRADED_AFTER_LOSS
            for each in self._engines.values()
            if each.back_at is not None
        ]
        if self._failed is not None:
            ends.append(self._failed[0] + DEGRADED_AFTER_LOSS)
        if self._refused is not None:
            ends.append(self._refused[1] + DEGRADED_AFTER_REFUSAL)
        return ends


def _model_facts(model: ModelReady) -> dict[str, Any]:
    return {
        "name": model.name,
        "context": model.context,
        "sequences": model.sequences,
        "kv_cells": model.kv_cells,
        "pooling": model.pooling,
        "load_seconds": round(model.seconds, 3),
    }
