"""The worker's state, as a load balancer and a person would ask for it.

The application tells the life cycle (`starting`, `ready`, `draining`, `dead`); events tell the rest.
`degraded` is never told: it is worked out when somebody asks, from what has happened lately.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from enum import StrEnum
from typing import Any

from gguf_worker.errors import Overloaded
from gguf_worker.events import (
    EngineBack,
    EngineLost,
    Event,
    ModelReady,
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
        self._step: StepDone | None = None
        self._step_at: float | None = None
        self._model: ModelReady | None = None
        self._restarts = 0
        self._lost: tuple[float, str] | None = None
        self._back_at: float | None = None
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
                    self._step, self._step_at = event, self._now()
                case ModelReady():
                    self._model = event
                case EngineLost():
                    self._lost = (self._now(), event.cause)
                    self._back_at = self._step = self._step_at = None
                case EngineBack():
                    self._restarts = event.restarts
                    self._back_at = self._now()
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
            step = self._step
            return {
                "state": state.value,
                "reason": reason,
                "state_seconds": round(now - since, 3),
                "uptime_seconds": round(now - self._began, 3),
                "last_step_seconds": (
                    None if self._step_at is None else round(now - self._step_at, 3)
                ),
                "running": step.running if step else 0,
                "waiting": step.waiting if step else 0,
                "kv_used": step.kv_used if step else 0,
                "kv_cached": step.kv_cached if step else 0,
                "kv_total": step.kv_total if step else 0,
                "engine_restarts": self._restarts,
                "model": self._model and _model_facts(self._model),
            }

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
        found = []
        if self._lost is not None:
            at, cause = self._lost
            if self._back_at is None:
                found.append((at, f"the engine was lost ({cause}) and is being restarted"))
            elif now < self._back_at + ENGINE_SHADOW:
                found.append((at, f"the engine was lost ({cause}) and has been restarted"))
        refusing_since = self._refusing_since(now)
        if refusing_since is not None:
            found.append((refusing_since, "the queue is full: requests are being refused"))
        if self._step_at is not None and now - self._step_at > self._engine_timeout:
            found.append((self._step_at, "the engine gives no sign of life"))
        return found

    def _refusing_since(self, now: float) -> float | None:
        """When the present run of refusals began; None where the last one is long past."""
        if self._refused is None or now >= self._refused[1] + REFUSAL_SHADOW:
            return None
        return self._refused[0]

    def _shadow_ends(self) -> list[float]:
        ends = []
        if self._back_at is not None:
            ends.append(self._back_at + ENGINE_SHADOW)
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
