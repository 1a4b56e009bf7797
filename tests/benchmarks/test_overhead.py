from __future__ import annotations

import threading
from typing import Any

import pytest

from benchmarks.overhead import LLAMA, OTHER, ROWS, Stopwatch, figures, measure
from tests.fakes import FakeClock


def test_each_moment_belongs_to_the_innermost_phase() -> None:
    clock = FakeClock()
    watch = Stopwatch(clock)
    inner = watch.timed(LLAMA, lambda: clock.advance(5.0))

    def outer() -> None:
        clock.advance(2.0)
        inner()
        clock.advance(1.0)

    clock.advance(0.5)
    watch.timed("plan", outer)()
    clock.advance(0.25)
    watch.close_step(8)
    assert watch.steps == [{"rows": 8, "seconds": {OTHER: 0.75, "plan": 3.0, LLAMA: 5.0}}]


def test_a_step_begins_with_nothing_spent() -> None:
    watch = Stopwatch(FakeClock())
    watch.close_step(1)
    watch.close_step(2)
    assert watch.steps[1] == {"rows": 2, "seconds": {OTHER: 0.0}}


def test_a_phase_that_fails_has_ended() -> None:
    clock = FakeClock()
    watch = Stopwatch(clock)

    def fail() -> None:
        clock.advance(1.0)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        watch.timed("plan", fail)()
    clock.advance(2.0)
    watch.close_step(1)
    assert watch.steps[0]["seconds"] == {OTHER: 2.0, "plan": 1.0}


def test_other_threads_are_not_timed() -> None:
    clock = FakeClock()
    watch = Stopwatch(clock)
    thread = threading.Thread(target=watch.timed("plan", lambda: clock.advance(1.0)))
    thread.start()
    thread.join()
    watch.close_step(1)
    assert watch.steps[0]["seconds"] == {OTHER: 1.0}


def step(rows: int, **seconds: float) -> dict[str, Any]:
    return {"rows": rows, "seconds": seconds}


def test_our_own_time_is_all_but_llama_cpps_in_the_steps_that_had_all_rows() -> None:
    other_rows = [step(40, plan=9.0)] * 3
    steps = [step(8, **{"plan": 1e-6, OTHER: 2e-6, LLAMA: 50e-6})] * 60
    found = figures(8, [*other_rows, *steps])
    assert found["own_us@8"] == pytest.approx(3.0)
    assert found["plan_us@8"] == pytest.approx(1.0)
    assert found["llama.cpp_us@8"] == pytest.approx(50.0)


def test_a_run_without_such_steps_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="no step had 8 rows"):
        figures(8, [step(1)])


@pytest.mark.llama
async def test_the_real_engine_is_timed_in_all_its_phases() -> None:
    found = await measure(steps=20)
    for rows in ROWS:
        parts = ("drain", "plan", "fill", "sample", "text", "message")
        assert all(found[f"{phase}_us@{rows}"] > 0 for phase in parts)
        assert found[f"own_us@{rows}"] > found[f"plan_us@{rows}"]
