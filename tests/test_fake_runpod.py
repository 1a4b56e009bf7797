"""The fake of the job API against the real SDK: what the end-to-end tests stand on."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from tests.fake_runpod import ENDPOINT, KEY, FakeRunPod, Worker
from tests.waiting import until

HANDLER = """
import asyncio
import runpod

together = asyncio.Barrier(8)

async def handler(job):
    request = job["input"]
    # The job's task ends at once when the job is stopped. This generator, if the SDK was just
    # posting an item of it, is closed only when the garbage collector finds it.
    task = asyncio.current_task()
    task.add_done_callback(lambda task: print("ended", job["id"], flush=True))
    if "meet" in request:
        await together.wait()
    for n in range(request["items"]):
        if n:
            await asyncio.sleep(request.get("pause", 0))
        yield {"n": n, "text": "é" * request.get("size", 1)}
    if "error" in request:
        yield {"error": request["error"]}

if __name__ == "__main__":
    runpod.serverless.start({
        "handler": handler,
        "return_aggregate_stream": True,
        "concurrency_modifier": lambda current: 8,
    })
    print("left", flush=True)
"""


def start(api: FakeRunPod, folder: Path) -> Worker:
    (folder / "handler.py").write_text(HANDLER)
    worker = Worker(api.environment(folder), log=folder / "worker.log", cwd=folder)
    try:
        worker.wait_polling(api)
    except AssertionError:
        worker.close()
        raise
    return worker


@pytest.fixture(scope="module")
def api() -> Iterator[FakeRunPod]:
    with FakeRunPod() as api:
        yield api


@pytest.fixture(scope="module")
def worker(api: FakeRunPod, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    worker = start(api, tmp_path_factory.mktemp("worker"))
    yield worker
    worker.close()


@pytest.mark.slow
def test_streamed_items_arrive_in_order_and_again_in_the_result(
    api: FakeRunPod, worker: Worker
) -> None:
    job = api.submit({"items": 3})
    items = [{"n": n, "text": "é"} for n in range(3)]
    assert api.wait_done(job) == {"output": items}
    times, streamed = zip(*api.stream_of(job), strict=True)
    assert list(streamed) == items
    assert list(times) == sorted(times)
    assert len(api.results_of(job)) == 1


@pytest.mark.slow
def test_items_arrive_while_the_job_runs(api: FakeRunPod, worker: Worker) -> None:
    job = api.submit({"items": 3, "pause": 0.2})
    api.wait_streamed(job, 2)
    assert not api.results_of(job)
    api.wait_done(job)


@pytest.mark.slow
def test_an_error_item_fails_the_job_with_its_text(api: FakeRunPod, worker: Worker) -> None:
    job = api.submit({"items": 1, "error": "no such model"})
    assert api.wait_done(job) == {"error": "no such model"}
    assert [item["n"] for _, item in api.stream_of(job)] == [0]


@pytest.mark.slow
def test_a_large_item_passes(api: FakeRunPod, worker: Worker) -> None:
    job = api.submit({"items": 1, "size": 2_000_000})
    assert len(api.wait_done(job)["output"][0]["text"]) == 2_000_000


@pytest.mark.slow
@pytest.mark.parametrize("network", [0.0, 0.3])
def test_a_cancelled_job_is_stopped_and_posts_no_result(
    api: FakeRunPod, worker: Worker, network: float
) -> None:
    """On a slow network the job is stopped while an item of it is on the way."""
    api.stream_delay = network
    try:
        job = api.submit({"items": 10_000, "pause": 0.01})
        api.wait_streamed(job)
        api.cancel(job)
        worker.wait_output(f"ended {job}")
    finally:
        api.stream_delay = 0.0
    streamed = len(api.stream_of(job))
    api.wait_done(api.submit({"items": 1}))
    assert streamed < 10_000
    assert len(api.stream_of(job)) == streamed
    assert api.results_of(job) == []


def ask(api: FakeRunPod, call: str) -> Any:
    with urlopen(f"http://127.0.0.1:{api.port}/v2/{ENDPOINT}/{call}") as answer:
        return json.loads(answer.read() or "null")


def test_a_poll_gets_one_job_and_a_batch_a_list_of_at_most_that_many() -> None:
    with FakeRunPod(hold=0.01) as api:
        jobs = [{"id": api.submit({"n": n}), "input": {"n": n}} for n in range(4)]
        assert ask(api, "job-take/pod1?gpu=FAKE") == jobs[0]
        assert ask(api, "job-take-batch/pod1?gpu=FAKE&batch_size=2") == jobs[1:3]
        assert ask(api, "job-take-batch/pod1?gpu=FAKE&batch_size=2") == jobs[3:]
        assert ask(api, "job-take/pod1?gpu=FAKE") is None


def test_further_keys_of_a_job_are_passed_on() -> None:
    with FakeRunPod() as api:
        api.submit({}, webhook="http://127.0.0.1/hook")
        assert ask(api, "job-take/pod1?gpu=FAKE")["webhook"] == "http://127.0.0.1/hook"


def test_a_job_cancelled_in_the_queue_is_never_taken() -> None:
    with FakeRunPod(hold=0.01) as api:
        first, second = api.submit({}), api.submit({})
        api.cancel(first)
        assert ask(api, "job-take/pod1?gpu=FAKE")["id"] == second
        assert ask(api, "job-take/pod1?gpu=FAKE") is None


def test_a_worker_that_dies_while_it_polls_takes_no_job_with_it() -> None:
    with FakeRunPod(hold=30) as api:
        with socket.create_connection(("127.0.0.1", api.port)) as dying:
            dying.sendall(f"GET /v2/{ENDPOINT}/job-take/pod1? HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            until(lambda: api.polled("pod1"))
        ask(api, "ping/pod2")
        job = api.submit({})
        assert ask(api, "job-take/pod2?gpu=FAKE")["id"] == job


def test_only_the_worker_that_runs_a_job_is_told_to_stop_it() -> None:
    with FakeRunPod(hold=0.01) as api:
        job = api.submit({})
        ask(api, "job-take/pod1?gpu=FAKE")
        api.cancel(job)
        assert ask(api, "job-stop/pod2?gpu=FAKE") is None
        assert ask(api, "job-stop/pod1?gpu=FAKE") == {"jobsToStop": [job]}
        assert ask(api, "job-stop/pod1?gpu=FAKE") is None


@pytest.mark.slow
def test_eight_jobs_run_at_the_same_time(api: FakeRunPod, worker: Worker) -> None:
    """Each waits for the seven others, so they end only if all of them run at once."""
    jobs = [api.submit({"items": 2, "meet": True}) for _ in range(8)]
    for job in jobs:
        assert len(api.wait_done(job)["output"]) == 2


@pytest.mark.slow
def test_a_failed_post_of_an_item_is_tried_again(api: FakeRunPod, worker: Worker) -> None:
    api.fail_stream_posts(1)
    job = api.submit({"items": 1})
    api.wait_done(job)
    posts = [r for r in api.requests if r.job == job and r.call == "job-stream"]
    assert len(posts) == 2
    assert len(api.stream_of(job)) == 1


@pytest.mark.slow
def test_a_slow_network_holds_the_stream_back(api: FakeRunPod, worker: Worker) -> None:
    api.stream_delay = 0.2
    try:
        job = api.submit({"items": 3})
        api.wait_done(job)
    finally:
        api.stream_delay = 0.0
    (first, _), *_, (last, _) = api.stream_of(job)
    assert last - first >= 0.4


@pytest.mark.slow
def test_the_worker_sends_its_key_and_pings(api: FakeRunPod, worker: Worker) -> None:
    until(lambda: api.pings)
    assert "runpod_version" in api.pings[0]
    assert {request.authorization for request in api.requests} == {KEY}


@pytest.mark.slow
def test_a_worker_told_to_leave_finishes_its_job_first(tmp_path: Path) -> None:
    with FakeRunPod() as api:
        worker = start(api, tmp_path)
        try:
            job = api.submit({"items": 10, "pause": 0.1})
            api.wait_streamed(job)
            assert worker.terminate() == 0
            assert len(api.wait_done(job, timeout=1)["output"]) == 10
            assert worker.output.splitlines()[-1] == "left"
        finally:
            worker.close()


def test_a_worker_that_dies_at_once_is_reported_with_its_output(tmp_path: Path) -> None:
    dying = [sys.executable, "-c", "import sys; sys.exit('no model here')"]
    with FakeRunPod() as api:
        worker = Worker(
            api.environment(tmp_path), log=tmp_path / "worker.log", cwd=tmp_path, command=dying
        )
        try:
            with pytest.raises(AssertionError, match="no model here"):
                worker.wait_polling(api, timeout=30)
            assert worker.wait() == 1
        finally:
            worker.close()


def test_the_environment_of_the_tests_stays_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL", "somebody's own")
    worker = Worker(
        {"GIVEN": "yes"},
        log=tmp_path / "worker.log",
        cwd=tmp_path,
        command=[sys.executable, "-c", "import os; print(sorted(os.environ))"],
    )
    assert worker.wait() == 0
    assert "'GIVEN'" in worker.output
    assert "MODEL" not in worker.output


def test_nothing_of_the_fake_is_left_behind() -> None:
    with FakeRunPod() as api:
        assert api._thread.is_alive()
    assert not api._thread.is_alive()
