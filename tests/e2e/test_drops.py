"""Streams whose clients go away, as seen from outside, and to the step by the worker's events."""

from __future__ import annotations

import asyncio
import http.client
import os
import re
import signal
import socket
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest

from gguf_worker.app import App
from gguf_worker.config import Settings
from gguf_worker.events import Event, Outcome, RequestDone, StepDone
from tests.http_worker import Served, ask, connected, free_port, http_worker, reset
from tests.waiting import until

pytestmark = pytest.mark.e2e

ROUTE = "/v1/completions"
LONG = {"prompt": "Once upon a time", "max_tokens": 1900, "stream": True, "ignore_eos": True}
"""A request for a stream so long that no test waits for its end."""
BESIDE = 3
"""Long streams that keep the engine stepping."""
STEPS = 2
"""Steps that may still have a row of a request whose client is gone."""

ENDINGS: dict[str, Callable[[socket.socket], None]] = {"close": socket.socket.close, "reset": reset}


@pytest.fixture(scope="module")
def worker(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Start a worker that reports every step by itself, so that /metrics shows each."""
    log = tmp_path_factory.mktemp("drops") / "log"
    with http_worker(
        demo_model, log, MAX_CONCURRENCY="8", SERVED_MODEL_NAME="demo", STREAM_INTERVAL="0"
    ) as served:
        yield served


class Gauges:
    """A reader of two figures of /metrics, in milliseconds, over one connection."""

    def __init__(self, base: str) -> None:
        self._connection = http.client.HTTPConnection(base.removeprefix("http://"), timeout=10)

    def read(self) -> tuple[int, int]:
        """Return the steps so far, and the requests that run after the last of them."""
        self._connection.request("GET", "/metrics")
        page = self._connection.getresponse().read()
        return _figure(page, b"engine_step_seconds_count"), _figure(page, b"num_requests_running")

    def until_running(self, running: int) -> int:
        """Return the steps so far at the first reading with so many requests, without pauses."""

        def steps() -> tuple[int, int] | None:
            figures = self.read()
            return figures if figures[1] == running else None

        return until(steps, pause=0)[0]

    def close(self) -> None:
        self._connection.close()


def _figure(page: bytes, name: bytes) -> int:
    found = re.search(rb"^gguf_worker_%s (\S+)$" % name, page, re.MULTILINE)
    assert found is not None
    return int(float(found[1]))


def begun(connection: socket.socket) -> socket.socket:
    """Ask for a long stream, and return the connection once text comes."""
    ask(connection, ROUTE, LONG)
    data = b""
    while b"data: " not in data:
        data += connection.recv(65536)
        assert data
    return connection


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_client_that_drops_in_a_stream_is_out_of_the_batch_within_two_steps(
    worker: Served, ending: str
) -> None:
    """Count the steps from the last reading before the drop to the first that shows a free slot.

    They include the way of the news to the worker, to the engine and back, and the time between two
    readings. The step that is reported with the free slot is the first without the request. The
    median counts, because a busy machine may hold up any of these ways; a sequence that is kept for
    long would show in each.
    """
    held = []
    with closing(Gauges(worker.base)) as gauges, ExitStack() as opened:
        for _ in range(BESIDE):
            opened.enter_context(begun(connected(worker.port)))
        for _ in range(7):
            dropped = begun(connected(worker.port))
            gauges.until_running(BESIDE + 1)
            before, running = gauges.read()
            assert running == BESIDE + 1
            ENDINGS[ending](dropped)
            held.append(gauges.until_running(BESIDE) - 1 - before)
    print(f"{ending}: steps with the dropped request {held}")
    assert statistics.median(held) <= STEPS


def test_the_last_request_that_drops_shows_at_once_though_no_step_follows(worker: Served) -> None:
    with closing(Gauges(worker.base)) as gauges:
        gauges.until_running(0)
        delays = []
        for _ in range(5):
            dropped = begun(connected(worker.port))
            gauges.until_running(1)
            reset(dropped)
            began = time.monotonic()
            gauges.until_running(0)
            delays.append(time.monotonic() - began)
    print(f"seconds until it shows {[round(each, 3) for each in delays]}")
    assert statistics.median(delays) < 0.2


def test_by_the_engines_own_account_too_it_is_two_steps_for_each_client(demo_model: Path) -> None:
    """Count the steps from a request's end in the front to the first step without it.

    They are counted by the events, so that nothing depends on the moments of readings.
    """
    port = free_port()
    events: list[Event] = []
    settings = Settings(
        model=str(demo_model), host="127.0.0.1", port=port, max_concurrency=4, stream_interval=0
    )
    app = App(settings, environ={}, watch=events.append)

    def until_running(requests: int) -> None:
        until(lambda: steps_in(events)[-1].running == requests, pause=0.002)

    def talk() -> None:
        until(lambda: listens(port))
        with ExitStack() as opened:
            for _ in range(BESIDE):
                opened.enter_context(begun(connected(port)))
            for number in range(12):
                dropped = begun(connected(port))
                until_running(BESIDE + 1)
                list(ENDINGS.values())[number % len(ENDINGS)](dropped)
                until_running(BESIDE)

    app.start()
    try:
        serve_while(app, talk)
    finally:
        app.close()
    held = steps_with_the_cancelled(events)[:12]
    print(f"steps with the dropped request, by the events {held}")
    assert len(held) == 12
    assert max(held) <= STEPS


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True


def steps_in(events: Sequence[Event]) -> list[StepDone]:
    return [event for event in events if isinstance(event, StepDone)]


def steps_with_the_cancelled(events: Sequence[Event]) -> list[int]:
    """Return, for each request that was cancelled, the steps from then on that still had it."""
    return [
        steps_with(steps_in(events[:at])[-1].running, steps_in(events[at:]))
        for at, event in enumerate(events)
        if isinstance(event, RequestDone) and event.outcome is Outcome.CANCELLED
    ]


def steps_with(running: int, steps: Sequence[StepDone]) -> int:
    """Return the number of steps with rows, up to the first with another number of requests."""
    first = takewhile(lambda step: step.running == running, steps)
    return sum(step.steps for step in first if step.rows)


async def test_streams_that_finish_and_that_are_given_up_at_once_end_once_each(
    worker: Served,
) -> None:
    before = worker.metrics()
    async with worker.async_client() as client:

        async def finished() -> None:
            stream = await client.completions.create(**asked(max_tokens=12))
            assert [chunk async for chunk in stream][-1].choices[0].finish_reason == "length"

        async def cancelled(after: int) -> None:
            stream = await client.completions.create(**asked())
            for _ in range(after):
                await anext(aiter(stream))
            await stream.close()

        def dropped(waits: bool) -> None:
            connection = connected(worker.port)
            if waits:
                begun(connection)
            else:  # most likely still in the queue
                ask(connection, ROUTE, LONG)
                time.sleep(0.05)  # long enough to be read, too short to be computed
            reset(connection)

        await asyncio.gather(
            *(finished() for _ in range(10)),
            *(cancelled(after=number % 3) for number in range(10)),
            *(asyncio.to_thread(dropped, number % 2 == 0) for number in range(10)),
        )
    with closing(Gauges(worker.base)) as gauges:
        gauges.until_running(0)
    await asyncio.sleep(0.5)  # nothing may come any more
    after = worker.metrics()
    ended = {
        name: after[name] - before.get(name, 0)
        for name in after
        if name.startswith("requests_total") and after[name] != before.get(name, 0)
    }
    assert ended == {
        f'requests_total{{outcome="length",route="{ROUTE}"}}': 10,
        f'requests_total{{outcome="cancelled",route="{ROUTE}"}}': 20,
    }
    assert after["num_requests_waiting"] == after["kv_cache_usage_perc"] == 0


def asked(**more: Any) -> Any:
    """Return LONG as arguments of the official client."""
    body = {**LONG, **more, "model": "demo"}
    extra = {"ignore_eos": body.pop("ignore_eos")}
    return {**body, "extra_body": extra}


def serve_while(app: App, talk: Callable[[], None]) -> None:
    """Serve on this thread, the main one, until `talk` on another one is over."""

    def talk_then_stop() -> None:
        try:
            talk()
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    with ThreadPoolExecutor(1) as other:
        talking = other.submit(talk_then_stop)
        app.serve_http()
        talking.result()
