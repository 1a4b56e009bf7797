"""Crowds of clients that read little or nothing: others don't notice, and nothing is left."""

from __future__ import annotations

import resource
import socket
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.http_worker import Served, ask, connected, http_worker, reset
from tests.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.llama]

ROUTE = "/v1/completions"
SLOW, OTHERS = 200, 4
TOKENS, WORDY_TOKENS = 800, 140
STALL_SECONDS = 13.0
"""Seconds that an answer may wait for its reader, in place of a minute."""
RIG = f"""
import runpy, socket
from gguf_worker.api.http import connection, server
listener = server._listener
def near_nothing(host, port):
    opened = listener(host, port)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return opened
server._listener = near_nothing
connection.STALL_SECONDS = {STALL_SECONDS}
runpy.run_path("handler.py", run_name="__main__")
"""
"""The worker with a short patience, and with small buffers in the kernel.

Usually the kernel holds megabytes for a client on the same machine that does not read, so that no
answer of a test would have to wait.
"""
SHARE = 0.8
"""The part of their usual speed that other clients reach beside slow readers."""
TRIES = 8
"""The most measurements: other programs may slow some of them, slow readers would slow each."""
GROWTH = 2**20
"""Bytes that the worker may grow by for one slow reader.

They hold the rest of an answer of 140 tokens, each with 20 likely ones, and the connection's own
buffer.
"""

LOOK = 0.1
"""Seconds between two looks at a worker whose speed is being measured."""

CONNECTIONS = 1000
HALF_A_HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: w\r\nContent-"
PING = b"GET /ping HTTP/1.1\r\nHost: w\r\n\r\n"


def asked(tokens: int, **more: object) -> dict[str, object]:
    body = {"max_tokens": tokens, "ignore_eos": True, "stream": True, "temperature": 0}
    return {**body, "prompt": "the sea and the theatre", **more}


def read_whole(port: int, user: str) -> None:
    with connected(port) as connection:
        ask(connection, ROUTE, asked(TOKENS, user=user))
        tail = b""
        while b"data: [DONE]" not in tail:
            part = connection.recv(65536)
            assert part, tail
            tail = tail[-100:] + part


def speed(port: int) -> float:
    """Return the tokens a second of all other clients together, from first request to last end."""
    with ThreadPoolExecutor(OTHERS) as pool:
        began = time.monotonic()
        others = [pool.submit(read_whole, port, f"other {number}") for number in range(OTHERS)]
        for each in others:
            each.result()
    return OTHERS * TOKENS / (time.monotonic() - began)


def ask_slowly(port: int, number: int) -> socket.socket:
    """Ask for an answer of few tokens and many bytes, and don't read it."""
    connection = connected(port, buffer=2048)
    wordy = asked(WORDY_TOKENS, user=f"slow {number}", logprobs=True, top_logprobs=20)
    del wordy["prompt"]
    messages = [{"role": "user", "content": "the sea"}]
    ask(connection, "/v1/chat/completions", {**wordy, "messages": messages})
    return connection


@contextmanager
def a_byte_a_second(readers: Sequence[socket.socket]) -> Iterator[None]:
    """Read a byte a second from each of these connections."""
    over = threading.Event()

    def read() -> None:
        while not over.wait(1):
            for reader in readers:
                with suppress(OSError):  # nothing there yet, or cut off
                    reader.recv(1, socket.MSG_DONTWAIT)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def ended(metrics: dict[str, float]) -> dict[str, float]:
    """Return the numbers of chats by outcome."""
    chats = 'requests_total{outcome="%s",route="/v1/chat/completions"}'
    names = ("cancelled", "length", "stop", "error", "tool_calls")
    return {name: metrics[chats % name] for name in names if chats % name in metrics}


def test_200_slow_readers_do_not_slow_the_others_and_are_cut_off(
    tiny_model: Path, tmp_path: Path
) -> None:
    """Half of them read nothing, half a byte a second.

    The engine computes their answers as anybody's. The time that counts is after that, when 200
    answers wait in the worker for readers who don't read.
    """
    settings = {"THREADS": "1", "MAX_CONCURRENCY": "16", "MAX_QUEUE": "400", "CTX_SIZE": "1024"}
    with (
        http_worker(tiny_model, tmp_path / "log", command=("-c", RIG), **settings) as worker,
        ExitStack() as opened,
    ):
        before = [speed(worker.port) for _ in range(3)]
        process = psutil.Process(worker.process.pid)
        files, memory = process.num_fds(), process.memory_info().rss
        slow = [opened.enter_context(ask_slowly(worker.port, each)) for each in range(SLOW)]
        opened.enter_context(a_byte_a_second(slow[::2]))
        during = speed(worker.port)
        until(worker.idle, pause=LOOK)
        stuck = process.num_fds() - files
        grown = process.memory_info().rss - memory

        beside = [speed(worker.port)]
        while max(beside) < SHARE * statistics.median(before) and len(beside) < TRIES:
            beside.append(speed(worker.port))
        still = process.num_fds() - files

        until(lambda: all_ended(worker), STALL_SECONDS + 20, pause=LOOK)
        ends = ended(worker.metrics())
        # The clients' own ends are still open.
        until(lambda: process.num_fds() <= files, STALL_SECONDS, pause=LOOK)
        after = [speed(worker.port) for _ in range(3)]
    print(
        f"tokens/s of {OTHERS}: alone {[round(each) for each in before + after]}, "
        f"while {SLOW} slow ones are computed {during:.0f}, "
        f"beside {stuck} (at the end {still}) that wait {[round(each) for each in beside]}; "
        f"grown by {grown / 2**20:.0f} MiB; ends {ends}"
    )
    assert stuck >= 0.9 * SLOW
    assert still >= 0.5 * SLOW
    # The slower of the two: the machine's other programs come and go.
    usual = min(statistics.median(before), statistics.median(after))
    assert max(beside) >= SHARE * usual
    assert grown < SLOW * GROWTH
    # An answer that was written out in whole is nothing to cancel any more.
    assert set(ends) <= {"cancelled", "length"}


def all_ended(worker: Served) -> bool:
    return sum(ended(worker.metrics()).values()) == SLOW


@pytest.fixture
def many_files() -> Iterator[None]:
    """Let this process open all the connections."""
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * CONNECTIONS
    if 0 <= files < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, most))


def crowd(port: int) -> Iterator[socket.socket]:
    """Open connections that are silent, stop in a request's head, or idle after an answer."""
    for number in range(CONNECTIONS):
        connection = connected(port)
        yield connection
        match number % 3:
            case 1:
                connection.sendall(HALF_A_HEAD)
            case 2:
                connection.sendall(PING)
                assert connection.recv(1000).startswith(b"HTTP/1.1 200")


def test_1000_connections_slow_no_request_and_leave_nothing(
    served: Served, many_files: None
) -> None:
    process = psutil.Process(served.process.pid)
    with served.client() as client:

        def chat() -> float:
            began = time.monotonic()
            client.chat.completions.create(
                model="demo", messages=[{"role": "user", "content": "Hi"}], max_tokens=4
            )
            return time.monotonic() - began

        alone = statistics.median(chat() for _ in range(9))
        files, memory = process.num_fds(), [process.memory_info().rss]
        for wave in range(3):
            with ExitStack() as opened:
                connections = [opened.enter_context(each) for each in crowd(served.port)]
                held = process.num_fds() - files
                beside = statistics.median(chat() for _ in range(9))
                memory.append(process.memory_info().rss)
                for connection in connections[::2]:
                    reset(connection)
            until(lambda: process.num_fds() <= files)
            print(
                f"wave {wave}: {held} connections, a chat {beside:.3f} s (alone {alone:.3f}), "
                f"grown by {(memory[-1] - memory[0]) / 2**20:.1f} MiB"
            )
            assert held >= 0.99 * CONNECTIONS  # some of before may have gone
            assert beside < 2 * alone + 0.05
    assert memory[-1] - memory[0] < CONNECTIONS * 32 * 2**10
    until(served.idle)
