"""Events as lines of the log: which of them are logged, how severe they are, and with which
facts."""

from __future__ import annotations

from gguf_worker.events import (
    EngineBack,
    EngineLost,
    ModelFailed,
    ModelReady,
    ModelUnloaded,
    Outcome,
    PhaseDone,
    RequestDone,
    StepDone,
)
from gguf_worker.monitoring import EventLog, bind_request
from tests.monitoring.conftest import Log


def test_a_finished_request_is_one_line_with_its_figures(log: Log) -> None:
    EventLog().observe(
        RequestDone("r", "j", "/v1/completions", Outcome.STOP, True, 1.5, completion_tokens=7)
    )
    line = log.last
    assert (line["event"], line["level"]) == ("request done", "info")
    assert (line["request_id"], line["job_id"], line["outcome"]) == ("r", "j", "stop")
    assert line["completion_tokens"] == 7
    assert "ttft_seconds" not in line


def test_a_failed_request_is_a_warning_with_its_code(log: Log) -> None:
    EventLog().observe(RequestDone("r", "j", "/n", Outcome.ERROR, True, 1.5, code="overloaded"))
    assert (log.last["level"], log.last["code"]) == ("warning", "overloaded")


def test_the_ids_of_an_event_win_over_those_of_the_task(log: Log) -> None:
    with bind_request(job_id="other", request_id="other"):
        EventLog().observe(RequestDone("r", "j", "/n", Outcome.STOP, True, 1.5))
    assert (log.last["job_id"], log.last["request_id"]) == ("j", "r")


def test_the_engine_and_the_start_are_logged_and_steps_are_not(log: Log) -> None:
    events = EventLog()
    events.observe(PhaseDone("load", 0.5))
    events.observe(ModelReady("smol", "/m.gguf", 0.5, 2048, 8, 16384))
    events.observe(StepDone(0.01, 1, 1, 0, 1, 10, 0, ()))
    events.observe(EngineLost("exit", "code 134", 2, 1))
    events.observe(EngineBack(1, 0.9))
    logged = [(line["level"], line["event"]) for line in log.lines]
    assert logged == [
        ("info", "phase done"),
        ("info", "model ready"),
        ("error", "engine lost"),
        ("info", "engine back"),
    ]
    assert log.lines[1]["model"] == "smol"
    assert log.lines[2]["detail"] == "code 134"


def test_a_model_that_leaves_or_fails_is_a_line_with_its_name(log: Log) -> None:
    EventLog().observe(ModelUnloaded("small", "room"))
    assert (log.last["event"], log.last["model"], log.last["cause"]) == (
        "model unloaded",
        "small",
        "room",
    )
    EventLog().observe(ModelFailed("small", "model_corrupt", "It is cut.", 300.0))
    assert log.last["level"] == "error"
    assert (log.last["event"], log.last["reason"]) == ("model failed", "It is cut.")
