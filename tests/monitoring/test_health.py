"""Health: what the worker says of itself, second by second."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from gguf_worker.events import (
    EngineBack,
    EngineLost,
    ModelFailed,
    ModelReady,
    ModelUnloaded,
    Outcome,
    RequestDone,
    StepDone,
)
from gguf_worker.monitoring import Health, WorkerState
from gguf_worker.monitoring.health import DEGRADED_AFTER_LOSS, DEGRADED_AFTER_REFUSAL
from tests.fakes import FakeClock

LOST = EngineLost("signal", "killed by SIGKILL", interrupted=1, resubmitted=0)
STEP = StepDone(0.01, 2, 2, 1, 100, 1000, 0, ())
REFUSAL = RequestDone("r", "j", "/native", Outcome.ERROR, False, 0.001, code="overloaded")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def health(clock: FakeClock) -> Health:
    return Health(clock, engine_timeout=30.0)


def state_of(health: Health) -> WorkerState:
    """Read the state anew: a type checker takes a property for unchanged."""
    return health.state


def test_a_worker_starts_then_serves_then_drains_then_is_dead(health: Health) -> None:
    states = [health.state]
    health.ready()
    states.append(health.state)
    health.draining()
    states.append(health.state)
    health.dead("stopped")
    states.append(health.state)
    assert states == [
        WorkerState.STARTING,
        WorkerState.READY,
        WorkerState.DRAINING,
        WorkerState.DEAD,
    ]


def test_a_draining_worker_never_takes_requests_again(health: Health) -> None:
    health.draining()
    health.ready()
    health.starting()
    assert health.state is WorkerState.DRAINING


def test_a_dead_worker_stays_dead_for_its_first_reason(health: Health) -> None:
    health.dead("the model is damaged")
    health.ready()
    health.draining()
    health.dead("another")
    assert health.state is WorkerState.DEAD
    assert health.snapshot()["reason"] == "the model is damaged"


def test_a_start_that_is_tried_again_says_why(health: Health, clock: FakeClock) -> None:
    clock.advance(5)
    health.starting("the download failed; next try in 4 s")
    snapshot = health.snapshot()
    assert snapshot["state"] == "starting"
    assert snapshot["reason"] == "the download failed; next try in 4 s"
    assert snapshot["state_seconds"] == 5


def test_a_lost_engine_degrades_until_a_while_after_it_is_back(
    health: Health, clock: FakeClock
) -> None:
    health.ready()
    clock.advance(10)
    health.observe(LOST)
    clock.advance(2)
    assert health.state is WorkerState.DEGRADED
    assert "signal" in health.snapshot()["reason"]
    assert "is being restarted" in health.snapshot()["reason"]

    health.observe(EngineBack(restarts=1, seconds=2.0))
    clock.advance(DEGRADED_AFTER_LOSS - 1)
    assert "has been restarted" in health.snapshot()["reason"]
    assert health.snapshot()["state_seconds"] == DEGRADED_AFTER_LOSS + 1

    clock.advance(3)
    snapshot = health.snapshot()
    assert (snapshot["state"], snapshot["reason"]) == ("ready", None)
    assert snapshot["state_seconds"] == 2
    assert snapshot["engine_restarts"] == 1


def test_an_engine_that_is_lost_while_starting_leaves_the_worker_starting(health: Health) -> None:
    health.observe(LOST)
    assert health.state is WorkerState.STARTING


def test_trouble_from_before_the_worker_was_ready_counts_from_then_on(
    health: Health, clock: FakeClock
) -> None:
    health.observe(LOST)
    health.observe(EngineBack(restarts=1, seconds=1.0))
    clock.advance(5)
    health.ready()
    clock.advance(2)
    snapshot = health.snapshot()
    assert (snapshot["state"], snapshot["state_seconds"]) == ("degraded", 2)


def test_a_second_loss_counts_as_being_restarted_again(health: Health, clock: FakeClock) -> None:
    health.ready()
    health.observe(LOST)
    health.observe(EngineBack(restarts=1, seconds=1.0))
    clock.advance(5)
    health.observe(EngineLost("wedged", "no step", interrupted=0, resubmitted=0))
    assert "(wedged) and is being restarted" in health.snapshot()["reason"]


def test_refused_requests_degrade_for_a_while(health: Health, clock: FakeClock) -> None:
    health.ready()
    clock.advance(100)
    health.observe(REFUSAL)
    clock.advance(DEGRADED_AFTER_REFUSAL - 1)
    health.observe(REFUSAL)
    clock.advance(DEGRADED_AFTER_REFUSAL - 1)
    snapshot = health.snapshot()
    assert snapshot["state"] == "degraded"
    assert "queue is full" in snapshot["reason"]
    assert snapshot["state_seconds"] == 2 * (DEGRADED_AFTER_REFUSAL - 1)
    clock.advance(1)
    assert health.state is WorkerState.READY


def test_other_errors_do_not_degrade(health: Health) -> None:
    health.ready()
    health.observe(RequestDone("r", "j", "/n", Outcome.ERROR, False, 0.1, code="invalid_request"))
    assert health.state is WorkerState.READY


def test_an_engine_without_a_sign_of_life_degrades(health: Health, clock: FakeClock) -> None:
    health.ready()
    health.observe(STEP)
    clock.advance(30)
    assert health.snapshot()["state"] == "ready"
    clock.advance(1)
    assert health.snapshot()["state"] == "degraded"
    assert "no sign of life" in health.snapshot()["reason"]
    health.observe(StepDone(0, 0, 0, 0, 0, 1000, 0, ()))
    assert health.state is WorkerState.READY


def test_a_snapshot_tells_what_the_engine_does(health: Health, clock: FakeClock) -> None:
    health.observe(ModelReady("smol", "/secret/path.gguf", 0.75, 2048, 8, 16384))
    health.ready()
    health.observe(STEP)
    clock.advance(0.25)
    snapshot = health.snapshot()
    assert json.loads(json.dumps(snapshot)) == {
        "state": "ready",
        "reason": None,
        "state_seconds": 0.25,
        "uptime_seconds": 0.25,
        "last_step_seconds": 0.25,
        "running": 2,
        "waiting": 1,
        "kv_used": 100,
        "kv_cached": 0,
        "kv_total": 1000,
        "engine_restarts": 0,
        "model": {
            "name": "smol",
            "context": 2048,
            "sequences": 8,
            "kv_cells": 16384,
            "pooling": "none",
            "load_seconds": 0.75,
        },
    }


def test_a_lost_engine_has_no_last_step(health: Health) -> None:
    health.ready()
    health.observe(STEP)
    health.observe(LOST)
    snapshot = health.snapshot()
    assert snapshot["last_step_seconds"] is None
    assert snapshot["running"] == 0


def test_the_figures_are_of_all_engines_together_and_the_age_is_the_oldests(
    health: Health, clock: FakeClock
) -> None:
    health.observe(replace(STEP, model="a"))
    clock.advance(4)
    health.observe(replace(STEP, model="b"))
    snapshot = health.snapshot()
    assert (snapshot["running"], snapshot["kv_total"]) == (4, 2000)
    assert snapshot["last_step_seconds"] == 4


def test_an_engine_that_has_left_with_its_model_is_not_missed(
    health: Health, clock: FakeClock
) -> None:
    health.ready()
    for name in ("a", "b"):
        health.observe(ModelReady(name, f"/{name}", 1.0, 512, 1, 512))
        health.observe(replace(STEP, model=name))
    health.observe(ModelUnloaded("b", "room"))
    clock.advance(20)
    health.observe(replace(STEP, model="a"))
    clock.advance(20)
    snapshot = health.snapshot()
    assert (snapshot["state"], snapshot["running"]) == ("ready", 2)
    assert snapshot["model"]["name"] == "a"


def test_one_of_several_engines_that_is_stuck_or_lost_degrades(
    health: Health, clock: FakeClock
) -> None:
    health.ready()
    health.observe(replace(STEP, model="a"))
    clock.advance(31)
    health.observe(replace(STEP, model="b"))
    assert health.snapshot()["reason"] == "the engine gives no sign of life"
    health.observe(ModelUnloaded("a", "lost"))
    assert state_of(health) is WorkerState.READY
    health.observe(replace(LOST, model="b"))
    health.observe(ModelReady("c", "/c", 1.0, 512, 1, 512))
    assert state_of(health) is WorkerState.DEGRADED


def test_a_model_that_cannot_be_served_degrades_for_a_while(
    health: Health, clock: FakeClock
) -> None:
    health.ready()
    health.observe(ModelFailed("b", "model_corrupt", "It is cut.", 300.0))
    assert state_of(health) is WorkerState.DEGRADED
    assert health.snapshot()["reason"] == "the model b cannot be served"
    clock.advance(DEGRADED_AFTER_LOSS)
    assert state_of(health) is WorkerState.READY
    assert health.snapshot()["state_seconds"] == 0
