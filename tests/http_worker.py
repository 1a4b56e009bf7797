"""A worker over HTTP, started from outside as `make serve` does, and raw connections to it."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai

from tests.metrics_page import samples
from tests.paths import ROOT
from tests.waiting import until

KEY = "key-of-the-test"


@dataclass
class Served:
    """A worker that serves HTTP at `base`."""

    base: str
    process: subprocess.Popen[bytes]
    first_ping: int
    """The first status that /ping gave."""

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.base}/v1", api_key=KEY, max_retries=0)

    def async_client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.base}/v1", api_key=KEY, max_retries=0)

    def health(self) -> dict[str, object]:
        health: dict[str, object] = httpx.get(f"{self.base}/health").json()
        return health

    def metrics(self) -> dict[str, float]:
        """Return the samples of /metrics, by names without our prefix."""
        return samples(httpx.get(f"{self.base}/metrics").text)

    def idle(self) -> bool:
        """Return whether no request runs or waits, and no cell of the KV cache is in use."""
        metrics = self.metrics()
        names = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
        return not any(metrics[name] for name in names)

    @property
    def port(self) -> int:
        return int(self.base.rpartition(":")[2])


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def connected(port: int, buffer: int = 0) -> socket.socket:
    """Open a raw connection. `buffer`: bytes that it may hold unread; 0: the system's default."""
    connection = socket.socket()
    if buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    connection.settimeout(60)
    connection.connect(("127.0.0.1", port))
    return connection


def ask(connection: socket.socket, route: str, body: Mapping[str, Any]) -> None:
    """Send one request with the key, and read nothing."""
    data = json.dumps(body).encode()
    head = (
        f"POST {route} HTTP/1.1\r\nHost: w\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    connection.sendall(head.encode() + data)


def reset(connection: socket.socket) -> None:
    """Reset a connection, so that what the other side still sends is refused."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@contextmanager
def http_worker(
    model: Path, log: Path, *, command: Sequence[str] = ("handler.py",), **more: str
) -> Iterator[Served]:
    """Start a worker and give it once it is ready; let it drain and exit when the block is left.

    `command`: the arguments of Python. `more`: settings.
    """
    port = free_port()
    settings = {"WORKER_MODE": "http", "HOST": "127.0.0.1", "PORT": str(port), "API_KEY": KEY}
    out = log.open("wb")
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, **settings, "MODEL": str(model), **more},
        stderr=out,
    )
    out.close()
    try:
        base = f"http://127.0.0.1:{port}"
        yield Served(base, process, _first_ping(base, process, log))
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, log.read_text()
    finally:
        if process.poll() is None:  # the test failed, or the worker does not end
            process.kill()
            process.wait()


def _first_ping(base: str, process: subprocess.Popen[bytes], log: Path) -> int:
    """Wait until the worker is ready, and return the first status that its /ping had."""
    statuses: list[int] = []

    def ready() -> bool:
        assert process.poll() is None, log.read_text()
        with suppress(httpx.TransportError):  # it does not listen yet
            statuses.append(httpx.get(f"{base}/ping").status_code)
        return statuses[-1:] == [200]

    try:
        until(ready, 60)
    except AssertionError as problem:
        raise AssertionError(log.read_text()) from problem
    return statuses[0]
