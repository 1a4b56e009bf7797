"""Limits of connections: the length and time of a head, and their number."""

from __future__ import annotations

import json
import socket
import time
from contextlib import ExitStack

import httpx
import pytest

from gguf_worker.api.http import connection
from tests.api_doors import Bench
from tests.fakes import ScriptedProvider, text_deltas
from tests.http_door import BODY, CHAT, application, connected, read_all, request_head, served
from tests.http_worker import free_port
from tests.waiting import until

GET = b"GET /ping HTTP/1.1\r\nHost: w\r\n\r\n"


def bench() -> Bench:
    return Bench(ScriptedProvider(text_deltas("a")))


def refusal(sent: bytes, port: int) -> tuple[int, str]:
    """Status and code of the answer to these bytes, after which the connection is closed."""
    with connected(port) as each:
        each.sendall(sent)
        return parsed(read_all(each))


def parsed(text: str) -> tuple[int, str]:
    head, _, body = text.partition("\r\n\r\n")
    assert "content-type: application/json" in head.lower()
    assert "connection: close" in head.lower()
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return int(head.split()[1]), error["code"]


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"nonsense\r\n\r\n", 400, "invalid_request"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20, 400, "invalid_request"),
        (b"GET /ping HTTP/1.1\r\n\r\n", 400, "invalid_request"),
        (GET[:-2] + b"bad header\r\n\r\n", 400, "invalid_request"),
        (GET[:-2] + b"Content-Length: -1\r\n\r\n", 400, "invalid_request"),
        (GET[:-2] + b"X: " + b"x" * 200_000, 431, "payload_too_large"),
        (b"GET /" + b"x" * 2_000_000, 431, "payload_too_large"),
        (GET[:-2] + b"A: b\r\n" * 20_000, 431, "payload_too_large"),
    ],
)
def test_a_head_that_is_wrong_or_too_large_is_refused_in_our_shape(
    sent: bytes, status: int, code: str
) -> None:
    with served(application(bench())) as port:
        assert refusal(sent, port) == (status, code)


def test_a_body_whose_chunks_are_wrong_is_refused_in_our_shape() -> None:
    head = request_head(0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    with served(application(bench())) as port:
        assert refusal(head + b"zz\r\n", port) == (400, "invalid_request")


@pytest.mark.parametrize(("sent", "answered"), [(b"", False), (GET[:-4], True)])
def test_a_head_that_does_not_come_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, sent: bytes, answered: bool
) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.2)
    with served(application(bench())) as port, connected(port) as slow:
        began = time.monotonic()
        slow.sendall(sent)
        text = read_all(slow)
        assert time.monotonic() - began < 5
    if answered:
        assert parsed(text) == (408, "deadline_exceeded")
    else:
        assert text == ""


def test_a_head_that_comes_a_byte_at_a_time_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.3)
    with served(application(bench())) as port, connected(port) as slow:
        slow.settimeout(0.02)
        for byte in GET[:-4]:
            slow.sendall(bytes([byte]))
            try:
                first = slow.recv(65536)
            except TimeoutError:
                continue
            slow.settimeout(5)
            assert parsed(first.decode() + read_all(slow)) == (408, "deadline_exceeded")
            return
        raise AssertionError("it was waited for")


def test_the_second_head_of_a_connection_is_not_waited_for_either(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.2)
    with served(application(bench())) as port, connected(port) as slow:
        slow.sendall(GET)
        assert b"200 OK" in slow.recv(65536)
        time.sleep(0.3)  # between requests it is uvicorn's time for idle connections that counts
        slow.sendall(GET[:-4])
        assert parsed(read_all(slow)) == (408, "deadline_exceeded")


def test_a_long_answer_is_no_late_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.1)

    def late() -> str:
        time.sleep(0.25)
        return "ready"

    with served(application(bench(), state=late)) as port:
        assert httpx.get(f"http://127.0.0.1:{port}/ping").status_code == 200


def test_a_body_that_nobody_wants_any_more_does_not_keep_its_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.3)
    with served(application(bench(), api_keys=["k"])) as port, connected(port) as client:
        client.sendall(request_head(1000) + b"{")
        text = b""
        while b"invalid_api_key" not in text:
            text += client.recv(65536)
        client.sendall(b" ")
        assert client.recv(65536) == b""


def test_1000_idle_connections_leave_one_for_a_request() -> None:
    with served(application(bench()), connections=4096) as port, ExitStack() as opened:
        for _ in range(1000):
            opened.enter_context(connected(port))
        response = httpx.post(f"http://127.0.0.1:{port}{CHAT}", json=BODY, timeout=10)
        assert response.is_success


def test_connections_beyond_the_limit_are_refused_cleanly_until_others_go() -> None:
    with served(application(bench()), connections=50) as port:
        url = f"http://127.0.0.1:{port}"
        with ExitStack() as opened:
            for _ in range(50):
                opened.enter_context(connected(port))
            with httpx.Client(timeout=5) as late:
                refused = late.post(f"{url}{CHAT}", json=BODY)
                assert refused.status_code == 503
                assert refused.headers["retry-after"] == "1"
                assert refused.json()["error"]["code"] == "overloaded"
                assert late.get(f"{url}/ping").status_code == 200
        until(lambda: httpx.post(f"{url}{CHAT}", json=BODY).is_success, 5)


def test_a_second_port_tells_health_and_nothing_else() -> None:
    health = free_port()
    with socket.create_server(("127.0.0.1", health)) as listener:
        app = application(bench(), health_port=health)
        with served(app, also=[listener]) as port:
            assert httpx.get(f"http://127.0.0.1:{health}/ping").status_code == 200
            assert httpx.get(f"http://127.0.0.1:{health}/v1/models").status_code == 404
            assert httpx.get(f"http://127.0.0.1:{port}/v1/models").status_code == 200
