"""The worker on RunPod's queue: the SDK itself, unmodified, against a fake of the job API."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.fake_runpod import FakeRunPod, Worker

pytestmark = pytest.mark.e2e

Start = Callable[..., Worker]


def poem(number: int, **more: Any) -> dict[str, Any]:
    content = f"Write a long story about the number {number}."
    given = {"messages": [{"role": "user", "content": content}], "stream": True, "max_tokens": 60}
    return {**given, "temperature": 0, "ignore_eos": True, **more}


def error_of(result: dict[str, Any]) -> dict[str, Any]:
    """Return the error object of a failed job's result."""
    found: dict[str, Any] = json.loads(result["error"])
    return found


def ask_health(api: FakeRunPod) -> dict[str, Any]:
    answer: dict[str, Any] = api.wait_done(api.submit({"task": "health"}))["output"][0]
    return answer


def ask_steps(api: FakeRunPod) -> int:
    text = api.wait_done(api.submit({"task": "metrics"}))["output"][0]["metrics"]
    found = re.search(r"^gguf_worker_engine_step_seconds_count (\d+)", text, re.MULTILINE)
    assert found, text
    return int(found[1])


def test_eight_streaming_jobs_run_together_and_all_complete(
    worker: Start, runpod_api: FakeRunPod
) -> None:
    process = worker(MAX_CONCURRENCY="8")
    jobs = [runpod_api.submit(poem(number)) for number in range(8)]
    results = [runpod_api.wait_done(job) for job in jobs]
    streams = [runpod_api.stream_of(job) for job in jobs]
    for result, stream in zip(results, streams, strict=True):
        assert result["output"] == [item for _, item in stream]
        last = result["output"][-1]
        assert last["finish_reason"] == "length"
        assert last["usage"]["completion_tokens"] == 60
        assert sum(item.get("tokens", 0) for item in result["output"]) == 60
    # Together: some moment lies inside every one of the eight streams.
    assert max(stream[0][0] for stream in streams) < min(stream[-1][0] for stream in streams)
    assert process.terminate() == 0


def test_a_cancelled_job_stops_and_its_cells_are_free(
    worker: Start, runpod_api: FakeRunPod
) -> None:
    worker()
    job = runpod_api.submit(poem(1, max_tokens=4000))
    runpod_api.wait_streamed(job, 3)
    assert ask_health(runpod_api)["running"] == 1
    runpod_api.cancel(job)
    health = ask_health(runpod_api)
    while health["running"]:
        health = ask_health(runpod_api)
    assert (health["running"], health["waiting"], health["kv_used"]) == (0, 0, 0)
    assert ask_steps(runpod_api) == ask_steps(runpod_api)
    assert runpod_api.results_of(job) == []
    assert len(runpod_api.stream_of(job)) < 1000


def test_a_job_cancelled_while_an_item_is_posted_stops_too(
    worker: Start, runpod_api: FakeRunPod
) -> None:
    """The SDK abandons the generator there, and only the garbage collector would close it."""
    runpod_api.stream_delay = 0.4
    process = worker()
    job = runpod_api.submit(poem(1, max_tokens=4000))
    runpod_api.wait_streamed(job, 2)
    runpod_api.cancel(job)
    process.wait_output('"outcome": "cancelled"', timeout=5.0)


def test_a_bad_job_fails_alone(worker: Start, runpod_api: FakeRunPod) -> None:
    worker()
    good = [runpod_api.submit(poem(number)) for number in range(2)]
    bad = {
        "invalid_request": runpod_api.submit({}),
        "context_length_exceeded": runpod_api.submit({"prompt": "word " * 20_000}),
        "unknown_route": runpod_api.submit({"openai_route": "/v1/nothing", "openai_input": {}}),
    }
    wrong_type = runpod_api.submit({"prompt": "Hi", "sampling_params": {"top_p": "much"}})
    for code, job in bad.items():
        assert error_of(runpod_api.wait_done(job))["code"] == code
    error = error_of(runpod_api.wait_done(wrong_type))
    assert (error["code"], error["param"]) == ("invalid_request", "sampling_params.top_p")
    for job in good:
        assert runpod_api.wait_done(job)["output"][-1]["finish_reason"] == "length"


def test_an_openai_stream_is_server_sent_events(worker: Start, runpod_api: FakeRunPod) -> None:
    worker()
    body = poem(3, stream_options={"include_usage": True})
    job = runpod_api.submit({"openai_route": "/v1/chat/completions", "openai_input": body})
    items = runpod_api.wait_done(job)["output"]
    assert all(isinstance(item, str) and item.endswith("\n\n") for item in items)
    events = [line.removeprefix("data: ") for line in "".join(items).split("\n\n") if line]
    assert events.pop() == "[DONE]"
    chunks = [json.loads(event) for event in events]
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert chunks[-1]["usage"]["completion_tokens"] == 60
    models = runpod_api.submit({"openai_route": "/v1/models", "openai_input": {}})
    assert runpod_api.wait_done(models)["output"][0]["object"] == "list"


def test_sigterm_in_a_stream_lets_the_jobs_finish_and_exits_0(
    worker: Start, runpod_api: FakeRunPod
) -> None:
    process = worker()
    jobs = [runpod_api.submit(poem(number, max_tokens=100)) for number in range(3)]
    for job in jobs:
        runpod_api.wait_streamed(job, 2)
    assert process.terminate() == 0
    for job in jobs:
        last = runpod_api.wait_done(job, timeout=1)["output"][-1]
        assert last["usage"]["completion_tokens"] == 100


@pytest.mark.parametrize(
    ("setting", "code"),
    [
        ({"MODEL": "/nowhere/model.gguf"}, "model_unavailable"),
        ({"CTX_SIZE": "many"}, "invalid_configuration"),
    ],
)
def test_a_start_that_cannot_work_answers_each_job_with_the_reason(
    worker: Start, runpod_api: FakeRunPod, setting: dict[str, str], code: str
) -> None:
    process = worker(**setting)
    error = error_of(runpod_api.wait_done(runpod_api.submit(poem(1))))
    assert error["code"] == code
    assert next(iter(setting.values())) in error["message"]
    assert ask_health(runpod_api)["state"] == "dead"
    assert process.terminate() == 0
