"""What becomes of a stream whose client goes away: seen from outside, and to the step from inside."""

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
from tests.http_worker import Served, ask, connected, http_worker, reset

pytestmark = pytest.mark.e2e

ROUTE = "/v1/completions"
LONG = {"prompt": "Once upon a time", "max_tokens": 1900, "stream": True, "ignore_eos": True}
"""A stream that no test waits for the end of."""
BESIDE = 3
"""Long streams that keep the engine stepping."""
STEPS = 2
"""Steps that may still have a row of a request whose client is gone."""

ENDINGS: dict[str, Callable[[socket.socket], None]] = {"close": socket.socket.close, "reset": reset}


@pytest.fixture(scope="module")
def worker(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Tells of every step by itself, so that /metrics can be read to the step."""
    log = tmp_path_factory.mktemp("drops") / "log"
    with http_worker(
        demo_model, log, MAX_CONCURRENCY="8", SERVED_MODEL_NAME="demo", STREAM_INTERVAL="0"
    ) as served:
        yield served


class Gauges:
    """Reads two figures of /metrics in milliseconds, over one connection."""

    def __init__(self, base: str) -> None:
        self._connection = http.client.HTTPConnection(base.removeprefix("http://"), timeout=10)

    def read(self) -> tuple[int, int]:
        """The steps so far, and the requests that run after the last of them."""
        self._connection.request("GET", "/metrics")
        page = self._connection.getresponse().read()
        return _figure(page, b"engine_step_seconds_count"), _figure(page, b"num_requests_running")

    def until_running(self, running: int) -> int:
        """The steps so far at the first reading with so many requests."""
        give_up = time.monotonic() + 20
        while True:
            steps, now_running = self.read()
            if now_running == running:
                return steps
            assert time.monotonic() < give_up, now_running

    def close(self) -> None:
        self._connection.close()


def _figure(page: bytes, name: bytes) -> int:
    found = re.search(rb"^gguf_worker_%s (\S+)$" % name, page, re.MULTILINE)
    assert found is not None
    return int(float(found[1]))


def begun(connection: socket.socket) -> socket.socket:
    """This connection, once it streams."""
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
    """From the last reading before the socket is closed to the first that shows a place free, so with the
    way of the news to the worker, through it to the engine and back, and the time between two readings. The
    step that the free place is told with is the first without the request. The median, because any of these
    ways may be held up on a busy machine; a sequence that is kept for long would show in each."""
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
    """From the end of the request in the front to the first step that is not told with it, by the events
    themselves: nothing here depends on when somebody looks."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    events: list[Event] = []
    settings = Settings(
        model=str(demo_model), host="127.0.0.1", port=port, max_concurrency=4, stream_interval=0
    )
    app = App(settings, environ={}, watch=events.append)

    def until_running(requests: int) -> None:
        give_up = time.monotonic() + 20
        while steps_in(events)[-1].running != requests:
            assert time.monotonic() < give_up
            time.sleep(0.002)

    def talk() -> None:
        until_served(port)
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


def until_served(port: int) -> None:
    give_up = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            assert time.monotonic() < give_up
            time.sleep(0.01)
        else:
            return


def steps_in(events: Sequence[Event]) -> list[StepDone]:
    return [event for event in events if isinstance(event, StepDone)]


def steps_with_the_cancelled(events: Sequence[Event]) -> list[int]:
    """For each request that was cancelled: the steps after that until one is told without it."""
    counts = []
    for at, event in enumerate(events):
        if isinstance(event, RequestDone) and event.outcome is Outcome.CANCELLED:
            most = steps_in(events[:at])[-1].running
            with_it = takewhile(lambda step, most=most: step.running == most, steps_in(events[at:]))
            counts.append(sum(step.steps for step in with_it if step.rows))
    return counts


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
                time.sleep(0.05)
            reset(connection)

        await asyncio.gather(
            *(finished() for _ in range(10)),
            *(cancelled(after=number % 3) for number in range(10)),
            *(asyncio.to_thread(dropped, number % 2 == 0) for number in range(10)),
        )
    with closing(Gauges(worker.base)) as gauges:
        gauges.until_running(0)
    await asyncio.sleep(0.5)  # for what should not come any more
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
    """LONG in the words of the official client."""
    body = {**LONG, **more, "model": "demo"}
    extra = {"ignore_eos": body.pop("ignore_eos")}
    return {**body, "extra_body": extra}


def serve_while(app: App, talk: Callable[[], None]) -> None:
    """Serves on this thread, the main one, until `talk` on another one is over."""

    def talk_then_stop() -> None:
        try:
            talk()
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    with ThreadPoolExecutor(1) as other:
        talking = other.submit(talk_then_stop)
        app.serve_http()
        talking.result()
