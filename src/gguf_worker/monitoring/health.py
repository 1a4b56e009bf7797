"""The worker's state, as a load balancer and a person would ask for it.

The application tells the life cycle (`starting`, `ready`, `draining`, `dead`); events tell the rest.
`degraded` is never told: it is worked out when somebody asks, from what has happened lately.
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

ENGINE_SHADOW = 60.0
"""Seconds for which a worker that lost its engine calls itself degraded after it is back."""

REFUSAL_SHADOW = 10.0
"""Seconds for which a worker that refused a request calls itself degraded."""


class State(StrEnum):
    """What the worker is up to; it serves in `ready` and `degraded`."""

    STARTING = "starting"
    READY = "ready"
    DEGRADED = "degraded"
    DRAINING = "draining"
    DEAD = "dead"


_FINAL = {State.DRAINING: {State.DEAD}, State.DEAD: set[State]()}


@dataclass(slots=True)
class _Engine:
    """What is known of one engine: its newest step, and its loss."""

    step: StepDone | None = None
    step_at: float | None = None
    lost: tuple[float, str] | None = None
    back_at: float | None = None

    def troubles(self, now: float, timeout: float) -> Iterator[tuple[float, str]]:
        """Since when, and what."""
        if self.lost is not None:
            at, cause = self.lost
            if self.back_at is None:
                yield at, f"the engine was lost ({cause}) and is being restarted"
            elif now < self.back_at + ENGINE_SHADOW:
                yield at, f"the engine was lost ({cause}) and has been restarted"
        if self.step_at is not None and now - self.step_at > timeout:
            yield self.step_at, "the engine gives no sign of life"


class Health:
    """Fed from any thread, asked from any thread.

    `engine_timeout`: seconds without a step (idle ones included) after which the engine counts as
    stuck.
    """

    def __init__(self, now: Callable[[], float], *, engine_timeout: float) -> None:
        self._now = now
        self._engine_timeout = engine_timeout
        self._lock = threading.Lock()
        self._began = self._since = now()
        self._state = State.STARTING
        self._reason: str | None = None
        self._engines: dict[str, _Engine] = {}
        """By their models; with one model only, under no name."""
        self._models: list[ModelReady] = []
        """Those in memory, the newest last."""
        self._restarts = 0
        self._failed: tuple[float, str] | None = None
        self._refused: tuple[float, float] | None = None

    def starting(self, reason: str | None = None) -> None:
        """Not ready, or no longer; `reason` may name what is being tried again."""
        self._turn(State.STARTING, reason)

    def ready(self) -> None:
        self._turn(State.READY, None)

    def draining(self) -> None:
        """No new requests; those that run may end. Only `dead` follows."""
        self._turn(State.DRAINING, "the worker is shutting down")

    def dead(self, reason: str) -> None:
        """The worker will not serve again; nothing follows."""
        self._turn(State.DEAD, reason)

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
                    self._engines[event.model] = _Engine(lost=(self._now(), event.cause))
                case EngineBack():
                    self._restarts += 1
                    self._engine(event.model).back_at = self._now()
                case RequestDone() if event.code == Overloaded.code:
                    now = self._now()
                    since = self._refusing_since(now)
                    self._refused = (now if since is None else since, now)

    @property
    def state(self) -> State:
        with self._lock:
            return self._judge(self._now())[0]

    def snapshot(self) -> dict[str, Any]:
        """Everything that is known, JSON-safe; ages and durations in seconds."""
        with self._lock:
            now = self._now()
            state, reason, since = self._judge(now)
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

    def _engine(self, model: str) -> _Engine:
        if model not in self._engines:
            self._engines[model] = _Engine()
        return self._engines[model]

    def _forget(self, model: str) -> None:
        self._models = [each for each in self._models if each.name != model]

    def _turn(self, state: State, reason: str | None) -> None:
        with self._lock:
            if state not in _FINAL.get(self._state, {state}):
                return
            if state is not self._state:
                self._since = self._now()
            self._state, self._reason = state, reason

    def _judge(self, now: float) -> tuple[State, str | None, float]:
        """The state, why, and since when."""
        if self._state is not State.READY:
            return self._state, self._reason, self._since
        troubles = self._troubles(now)
        if troubles:
            since, reason = min(troubles)
            return State.DEGRADED, reason, max(since, self._since)
        return State.READY, None, max([self._since, *self._shadow_ends()])

    def _troubles(self, now: float) -> list[tuple[float, str]]:
        found: list[tuple[float, str]] = []
        for engine in self._engines.values():
            found += engine.troubles(now, self._engine_timeout)
        if self._failed is not None and now < self._failed[0] + ENGINE_SHADOW:
            found.append((self._failed[0], f"the model {self._failed[1]} cannot be served"))
        refusing_since = self._refusing_since(now)
        if refusing_since is not None:
            found.append((refusing_since, "the queue is full: requests are being refused"))
        return found

    def _refusing_since(self, now: float) -> float | None:
        """When the present run of refusals began; None where the last one is long past."""
        if self._refused is None or now >= self._refused[1] + REFUSAL_SHADOW:
            return None
        return self._refused[0]

    def _shadow_ends(self) -> list[float]:
        ends = [
            each.back_at + ENGINE_SHADOW
            for each in self._engines.values()
            if each.back_at is not None
        ]
        if self._failed is not None:
            ends.append(self._failed[0] + ENGINE_SHADOW)
        if self._refused is not None:
            ends.append(self._refused[1] + REFUSAL_SHADOW)
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
