from __future__ import annotations

import ssl
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from gguf_worker.models.source.direct import DirectConnection, Route
from gguf_worker.models.source.remote import Transient
from tests.fake_web import FakeWeb, make_certificate

CONTENT = bytes(range(256)) * 4000


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.seen.append((self.client_address, self.path, dict(self.headers)))  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT)
        if self.path == "/once":
            self.close_connection = True  # without having said so

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.seen = []
    server.daemon_threads = False
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def _route(server: Any, path: str = "/a?b=c", *addresses: str) -> Route:
    url = f"http://files.test:{server.server_address[1]}{path}"
    return Route(url, addresses or ("127.0.0.1",), None, {"Authorization": "Bearer x"}, (5.0, 5.0))


def _read(connection: DirectConnection) -> bytes:
    return b"".join(bytes(data) for data in connection.ask({"Range": "bytes=0-"}).chunks())


def test_a_connection_is_used_for_one_request_after_the_other(server: Any) -> None:
    connection = DirectConnection(_route(server))
    assert not connection.reusable
    for _ in range(3):
        assert _read(connection) == CONTENT
        assert connection.reusable
    connection.close()
    clients = {client for client, _, _ in server.seen}
    assert len(clients) == 1
    _, path, headers = server.seen[0]
    assert path == "/a?b=c"
    assert headers["Host"] == f"files.test:{server.server_address[1]}"
    assert headers["Authorization"] == "Bearer x"
    assert headers["Range"] == "bytes=0-"


def test_a_connection_that_the_server_has_closed_since_is_made_anew(server: Any) -> None:
    connection = DirectConnection(_route(server, "/once"))
    assert _read(connection) == _read(connection) == CONTENT
    connection.close()
    assert len({client for client, _, _ in server.seen}) == 2


def test_a_body_that_is_not_read_to_its_end_makes_a_connection_useless(server: Any) -> None:
    connection = DirectConnection(_route(server))
    next(connection.ask({}).chunks())
    assert not connection.reusable
    connection.close()


def test_a_host_is_asked_at_its_next_address_where_one_cannot_be_reached(server: Any) -> None:
    connection = DirectConnection(_route(server, "/a", "::1", "127.0.0.9", "127.0.0.1"))
    assert _read(connection) == CONTENT
    connection.close()
    with pytest.raises(Transient, match=r"files\.test: ConnectionRefused"):
        DirectConnection(_route(server, "/a", "::1", "127.0.0.9"))


def test_the_certificate_has_to_be_of_the_name(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    trust = ssl.create_default_context(cafile=str(certificate))
    with FakeWeb(certificate, CONTENT) as web:
        good = Route(web.url("/m.gguf", "cdn.test"), ("127.0.0.1",), trust, {}, (5.0, 5.0))
        connection = DirectConnection(good)
        assert _read(connection) == CONTENT
        connection.close()
        bad = Route(web.url("/m.gguf", "stranger.test"), ("127.0.0.1",), trust, {}, (5.0, 5.0))
        with pytest.raises(Transient, match="CERTIFICATE_VERIFY_FAILED"):
            DirectConnection(bad)
