"""A worker over HTTP, started from outside as `make serve` does."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai

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


@contextmanager
def http_worker(model: Path, log: Path, **more: str) -> Iterator[Served]:
    """Ready when this is entered; told to stop, and drained, when it is left."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    settings = {"WORKER_MODE": "http", "HOST": "127.0.0.1", "PORT": str(port), "API_KEY": KEY}
    out = log.open("wb")
    process = subprocess.Popen(
        [sys.executable, "handler.py"],
        cwd=ROOT,
        env={**os.environ, **settings, "MODEL": str(model), **more},
        stderr=out,
    )
    out.close()
    base = f"http://127.0.0.1:{port}"
    statuses = []
    deadline = time.monotonic() + 60
    while not statuses or statuses[-1] != 200:
        assert time.monotonic() < deadline, log.read_text()
        assert process.poll() is None, log.read_text()
        try:
            statuses.append(httpx.get(f"{base}/ping").status_code)
        except httpx.TransportError:
            time.sleep(0.02)
    yield Served(base, process, statuses[0])
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0, log.read_text()
