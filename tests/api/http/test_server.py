"""The preparations of the process before it serves."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys

import pytest

from gguf_worker.api.http import serve, server


@pytest.mark.parametrize(
    ("limits", "connections", "raised"),
    [
        ((1024, 1024), 896, None),
        ((1024, 20_000), 4096, (4224, 20_000)),
        ((1024, resource.RLIM_INFINITY), 4096, (4224, resource.RLIM_INFINITY)),
        ((1024, 2048), 1920, (2048, 2048)),
        ((100_000, 100_000), 4096, None),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), 4096, None),
        ((128, 128), 64, None),
    ],
)
def test_open_files_are_raised_as_far_as_allowed_and_bound_the_connections(
    monkeypatch: pytest.MonkeyPatch,
    limits: tuple[int, int],
    connections: int,
    raised: tuple[int, int] | None,
) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda kind: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda kind, new: asked.append(new))
    assert server.connection_limit() == connections
    assert [each for each in asked if each != limits] == ([raised] if raised else [])


def test_a_taken_address_ends_the_start_with_a_word(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: object, receive: object, send: object) -> None: ...

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit) as ended:
            serve(app, host="127.0.0.1", port=port, grace=1, on_shutdown=lambda: None)
    assert ended.value.code == 1
    assert f"cannot listen on 127.0.0.1, port {port}" in caplog.text


CROWD = """
import resource, socket, sys, threading, time, httpx
resource.setrlimit(resource.RLIMIT_NOFILE, (400, 400))
sys.path.insert(0, ".")
from tests.api_doors import Bench
from tests.fakes import ScriptedProvider
from tests.http_door import application, served
from gguf_worker.api.http.server import connection_limit

with served(application(Bench(ScriptedProvider())), connections=connection_limit()) as port:
    print(port, flush=True)
    sys.stdin.read()
"""


def test_more_clients_than_files_may_be_open_break_nothing() -> None:
    """The connections come from here, so that only the server runs into its limit."""
    with subprocess.Popen(
        [sys.executable, "-c", CROWD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ,
    ) as running:
        assert running.stdin
        assert running.stdout
        port = int(running.stdout.readline())
        clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(600)]
        for client in clients:
            client.close()
        with socket.create_connection(("127.0.0.1", port), timeout=10) as last:
            last.sendall(b"GET /ping HTTP/1.1\r\nHost: w\r\nConnection: close\r\n\r\n")
            assert last.recv(100).startswith(b"HTTP/1.1 200")
        running.stdin.close()
        assert running.wait(20) == 0
