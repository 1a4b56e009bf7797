"""A worker over HTTP, started from outside as `make serve` does."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai

from tests.metrics_page import samples

ROOT = Path(__file__).resolve().parents[1]
KEY = "key-of-the-test"


@dataclass
class Served:
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
        """What /metrics has, by names without our prefix."""
        return samples(httpx.get(f"{self.base}/metrics").text)

    @property
    def port(self) -> int:
        return int(self.base.rpartition(":")[2])


def connected(port: int, buffer: int = 0) -> socket.socket:
    """A raw connection. `buffer`: bytes that it may hold unread; 0: as usual."""
    connection = socket.socket()
    if buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    connection.settimeout(60)
    connection.connect(("127.0.0.1", port))
    return connection


def ask(connection: socket.socket, route: str, body: Mapping[str, Any]) -> None:
    """Sends one request with the key, and reads nothing."""
    data = json.dumps(body).encode()
    head = (
        f"POST {route} HTTP/1.1\r\nHost: w\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    connection.sendall(head.encode() + data)


def reset(connection: socket.socket) -> None:
    """Ends a connection without a goodbye: what the other side still sends is refused."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@contextmanager
def http_worker(
    model: Path, log: Path, *, command: Sequence[str] = ("handler.py",), **more: str
) -> Iterator[Served]:
    """Ready when this is entered; told to stop, and drained, when it is left.

    `command`: what Python is started with. `more`: settings.
    """
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
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
    """Waits until it is ready."""
    statuses = []
    deadline = time.monotonic() + 60
    while not statuses or statuses[-1] != 200:
        assert time.monotonic() < deadline, log.read_text()
        assert process.poll() is None, log.read_text()
        try:
            statuses.append(httpx.get(f"{base}/ping").status_code)
        except httpx.TransportError:
            time.sleep(0.02)
    return statuses[0]
