"""A fake of RunPod's job API on the loopback interface, and the worker process that it feeds.

The SDK under test is the real one, unmodified, in a process of its own. It takes jobs here, streams
and returns its results, asks which jobs to stop, and pings. The fake knows neither what a job means
nor how the worker works.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from aiohttp import web

from tests.waiting import until

ENDPOINT = "ep1"
KEY = "fake-runpod-key"
LARGEST_BODY = 64 << 20

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SdkRequest:
    """A request of the worker. `body`: the decoded JSON of a POST."""

    at: float
    method: str
    call: str
    pod: str
    query: Mapping[str, str]
    authorization: str
    job: str | None = None
    body: Any = None


@dataclass(slots=True)
class _QueuedJob:
    payload: dict[str, Any]
    pod: str | None = None
    items: list[tuple[float, Any]] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)
    done: asyncio.Event = field(default_factory=asyncio.Event)


class FakeRunPod:
    """The job API, served by a thread of its own; `with FakeRunPod() as api:` stops it at the end.

    `hold`: seconds for which a poll without news is kept open, which is also how long a worker
    takes to leave: it waits for its open polls.
    """

    def __init__(self, *, hold: float = 0.5) -> None:
        self.stream_delay = 0.0
        """Seconds before a streamed item is acknowledged: a slow network."""
        self.requests: list[SdkRequest] = []
        """Every request, in the order of arrival."""
        self._hold = hold
        self._jobs: dict[str, _QueuedJob] = {}
        self._queue: list[str] = []
        self._to_stop: list[str] = []
        self._failing_streams = 0
        self._loop = asyncio.new_event_loop()
        self._news = asyncio.Condition()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fake-runpod")
        self._thread.start()
        try:
            self._runner, self.port = self._call(self._start())
        except BaseException:
            self._stop_loop()
            raise

    # --- what a test does ---

    def submit(self, input: Any, **extra: Any) -> str:
        """Queue a job, with further top-level keys if any. Returns its id."""
        return self._call(self._submit(input, extra))

    def cancel(self, job: str) -> None:
        """Remove a queued job, or have a running one stopped."""
        self._call(self._cancel(job))

    def wait_done(self, job: str, timeout: float = 60.0) -> dict[str, Any]:
        """Return the job's final result, as the worker posted it. Raises TimeoutError."""
        return self._call(asyncio.wait_for(self._result(job), timeout))

    def wait_streamed(self, job: str, items: int = 1, timeout: float = 60.0) -> None:
        """Wait until so many items of the job have arrived. Raises TimeoutError."""
        self._call(asyncio.wait_for(self._streamed(job, items), timeout))

    def stream_of(self, job: str) -> list[tuple[float, Any]]:
        """Return the items that the job has streamed so far, each with its time (monotonic)."""
        return list(self._jobs[job].items)

    def results_of(self, job: str) -> list[dict[str, Any]]:
        """Return all final results of the job: one, unless something is wrong or it was stopped."""
        return list(self._jobs[job].results)

    def is_taken(self, job: str) -> bool:
        """Tell whether a worker has taken the job, or the job was removed."""
        return job not in self._queue

    def fail_stream_posts(self, times: int) -> None:
        """Answer the next so many streamed items with a 500, and drop them."""
        self._failing_streams = times

    def polled(self, pod: str, since: float = 0.0) -> bool:
        """Tell if that worker has asked for a job since then (monotonic)."""
        return any(
            request.call in ("job-take", "job-take-batch") and request.pod == pod
            for request in list(self.requests)
            if request.at >= since
        )

    @property
    def pings(self) -> list[Mapping[str, str]]:
        """The query of every heartbeat."""
        return [request.query for request in list(self.requests) if request.call == "ping"]

    def environment(self, home: Path, *, pod: str = "pod1") -> dict[str, str]:
        """Return the variables of a worker on RunPod. `home`: an empty folder, since the SDK reads
        a key there."""
        base = f"http://127.0.0.1:{self.port}/v2/{ENDPOINT}"
        return {
            "HOME": str(home),
            "RUNPOD_AI_API_KEY": KEY,
            "RUNPOD_ENDPOINT_ID": ENDPOINT,
            "RUNPOD_POD_ID": pod,
            "RUNPOD_LOG_LEVEL": "INFO",
            "RUNPOD_PING_INTERVAL": "1000",
            "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
            "RUNPOD_SKIP_GPU_CHECK": "true",
            "RUNPOD_WEBHOOK_GET_JOB": f"{base}/job-take/$ID?gpu=FAKE",
            "RUNPOD_WEBHOOK_PING": f"{base}/ping/$RUNPOD_POD_ID",
            "RUNPOD_WEBHOOK_POST_OUTPUT": f"{base}/job-done/$RUNPOD_POD_ID/$ID?gpu=FAKE",
            "RUNPOD_WEBHOOK_POST_STREAM": f"{base}/job-stream/$RUNPOD_POD_ID/$ID?gpu=FAKE",
        }

    def close(self) -> None:
        """Stop serving. Workers should have left before."""
        self._call(self._runner.cleanup())
        self._stop_loop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # --- what follows runs on the server's loop, the only owner of the state ---

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _stop_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self) -> tuple[web.AppRunner, int]:
        app = web.Application(client_max_size=LARGEST_BODY)
        root = f"/v2/{ENDPOINT}"
        app.router.add_get(root + "/job-take/{pod}", self._take)
        app.router.add_get(root + "/job-take-batch/{pod}", self._take)
        app.router.add_get(root + "/job-stop/{pod}", self._stop)
        app.router.add_post(root + "/job-stream/{pod}/{job}", self._stream)
        app.router.add_post(root + "/job-done/{pod}/{job}", self._done)
        app.router.add_get(root + "/ping/{pod}", self._ping)
        # A poll whose worker has died must not take a job with it.
        runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=2.0
        )
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return runner, runner.addresses[0][1]

    async def _submit(self, input: Any, extra: dict[str, Any]) -> str:
        job = f"job{len(self._jobs) + 1}-u1"
        self._jobs[job] = _QueuedJob({"id": job, "input": input, **extra})
        self._queue.append(job)
        await self._wake_polls()
        return job

    async def _cancel(self, job: str) -> None:
        if job in self._queue:
            self._queue.remove(job)
        else:
            self._to_stop.append(job)
            await self._wake_polls()

    async def _result(self, job: str) -> dict[str, Any]:
        await self._jobs[job].done.wait()
        return self._jobs[job].results[0]

    async def _streamed(self, job: str, items: int) -> None:
        async with self._news:
            await self._news.wait_for(lambda: len(self._jobs[job].items) >= items)

    async def _wake_polls(self) -> None:
        async with self._news:
            self._news.notify_all()

    async def _held(self, find: Callable[[], list[str]]) -> list[str]:
        """Wait until `find` finds something, or the poll has to be answered."""
        async with self._news:
            try:
                return await asyncio.wait_for(self._news.wait_for(find), self._hold)
            except TimeoutError:
                return []

    async def _take(self, request: web.Request) -> web.Response:
        await self._log(request)
        wanted = int(request.query.get("batch_size", "1"))
        taken = await self._held(lambda: self._queue[:wanted])
        if not taken:
            return web.Response(status=204)
        for job in taken:
            self._queue.remove(job)
            self._jobs[job].pod = request.match_info["pod"]
        payloads = [self._jobs[job].payload for job in taken]
        return web.json_response(payloads if "batch_size" in request.query else payloads[0])

    async def _stop(self, request: web.Request) -> web.Response:
        await self._log(request)
        pod = request.match_info["pod"]
        stopped = await self._held(lambda: [j for j in self._to_stop if self._jobs[j].pod == pod])
        if not stopped:
            return web.Response(status=204)
        for job in stopped:
            self._to_stop.remove(job)
        return web.json_response({"jobsToStop": stopped})

    async def _stream(self, request: web.Request) -> web.Response:
        body = await self._log(request)
        if self._failing_streams:
            self._failing_streams -= 1
            return web.Response(status=500)
        self._jobs[request.match_info["job"]].items.append((time.monotonic(), body["output"]))
        await self._wake_polls()
        await asyncio.sleep(self.stream_delay)
        return web.Response()

    async def _done(self, request: web.Request) -> web.Response:
        body = await self._log(request)
        job = self._jobs[request.match_info["job"]]
        if body.get("status") != "IN_PROGRESS":
            job.results.append(body)
            job.done.set()
        return web.Response()

    async def _ping(self, request: web.Request) -> web.Response:
        await self._log(request)
        return web.Response()

    async def _log(self, request: web.Request) -> Any:
        """Note the request, and return its body, which is JSON whatever its headers say."""
        at = time.monotonic()
        body = json.loads(await request.read()) if request.method == "POST" else None
        self.requests.append(
            SdkRequest(
                at=at,
                method=request.method,
                call=request.path.split("/")[3],
                pod=request.match_info["pod"],
                query=dict(request.query),
                authorization=request.headers.get("Authorization", ""),
                job=request.match_info.get("job"),
                body=body,
            )
        )
        return body


class Worker:
    """A worker process, `python handler.py` or another command, with its output.

    Of this process's environment it gets only where programs, packages and devices are, so that a
    developer's own settings cannot change a test.
    """

    INHERITED = (
        "PATH",
        "PYTHONPATH",
        "LANG",
        "LC_ALL",
        "LD_LIBRARY_PATH",
        "TMPDIR",
        "CUDA_VISIBLE_DEVICES",
    )

    def __init__(
        self,
        environment: Mapping[str, str],
        *,
        log: Path,
        cwd: Path,
        command: Sequence[str] = (sys.executable, "-u", "handler.py"),
    ) -> None:
        inherited = {name: os.environ[name] for name in self.INHERITED if name in os.environ}
        self._pod = environment.get("RUNPOD_POD_ID", "")
        self._started = time.monotonic()
        self._log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                command,
                cwd=cwd,
                env={**inherited, **environment},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        """Its output so far, on stdout and stderr."""
        return self._log.read_text(errors="replace")

    def wait_polling(self, api: FakeRunPod, timeout: float = 120.0) -> None:
        """Wait until it asks for jobs. Raises AssertionError with its output."""

        def polls() -> bool:
            assert self.process.poll() is None, "the worker has left"
            return api.polled(self._pod, self._started)

        self._until(polls, timeout)

    def wait_output(self, text: str, timeout: float = 30.0) -> None:
        """Wait until it has printed the text. Raises AssertionError with its output."""
        self._until(lambda: text in self.output, timeout)

    def _until(self, holds: Callable[[], bool], timeout: float) -> None:
        try:
            until(holds, timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}:\n{self.output}") from error

    def wait(self, timeout: float = 60.0) -> int:
        """Wait until it ends. Returns its exit code. Raises AssertionError with its output."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired as expired:
            raise AssertionError(f"the worker does not leave:\n{self.output}") from expired

    def terminate(self, timeout: float = 60.0) -> int:
        """Send SIGTERM, as the platform does, and wait until it ends. Returns its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait(timeout)

    def close(self) -> None:
        """Kill it, with the SDK's heartbeat process, which outlives a killed worker."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
