"""The health check of the container, run as the image runs it."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tests.http_worker import free_port
from tests.paths import ROOT
from tests.waiting import PAUSE

SCRIPT = ROOT / "builder" / "image" / "health.py"


def check(**settings: str) -> int:
    command = [sys.executable, "-I", "-S", str(SCRIPT)]
    return subprocess.run(command, env=settings, timeout=30, capture_output=True).returncode


@contextmanager
def worker(status: int, host: str = "127.0.0.1") -> Iterator[int]:
    """Give the port of a server that answers /ping with this status, and nothing else."""

    class Ping(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/ping" else 404)
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = HTTPServer((host, 0), Ping)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": PAUSE})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(("status", "code"), [(200, 0), (204, 1), (503, 1), (500, 1)])
def test_over_http_a_worker_is_healthy_when_it_is_ready(status: int, code: int) -> None:
    with worker(status) as port:
        assert check(WORKER_MODE="http", PORT=str(port)) == code


def test_an_address_to_listen_on_is_the_one_that_is_asked() -> None:
    with worker(200, "127.0.0.2") as port:
        assert check(WORKER_MODE="HTTP", HOST="127.0.0.2", PORT=str(port)) == 0
        assert check(WORKER_MODE="http", HOST="0.0.0.0", PORT=str(port)) == 1


def test_over_http_a_worker_that_does_not_listen_is_not_healthy() -> None:
    assert check(WORKER_MODE="http", PORT=str(free_port())) == 1


@pytest.mark.slow
def test_over_http_a_worker_that_says_nothing_is_not_healthy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert check(WORKER_MODE="http", PORT=str(silent.getsockname()[1])) == 1


@pytest.mark.parametrize("mode", [{}, {"WORKER_MODE": ""}, {"WORKER_MODE": "queue"}])
def test_on_the_queue_a_worker_that_lives_is_healthy(mode: dict[str, str]) -> None:
    assert check(**mode) == 0
