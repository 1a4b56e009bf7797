"""The ground of the tests' servers: HTTP on a port of this machine, files by ranges, faults."""

from __future__ import annotations

import socket
import ssl
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_CHUNK = 64 * 1024


@dataclass(frozen=True)
class Status:
    """Answer with a status, and with nothing of the file."""

    code: int
    headers: Mapping[str, str] = field(default_factory=dict)
    text: str = ""


@dataclass(frozen=True)
class Cut:
    """Close the connection after so many bytes of the body."""

    after: int


@dataclass(frozen=True)
class Stall:
    """Send so many bytes of the body, then nothing, with the connection open."""

    after: int


@dataclass(frozen=True)
class Flip:
    """Change the byte at this position of the file."""

    at: int


@dataclass(frozen=True)
class Length:
    """Claim, and send, a file of another length."""

    bytes: int


@dataclass(frozen=True)
class IgnoreRange:
    """Send the whole file whatever range was asked for."""


@dataclass(frozen=True)
class Text:
    """Answer with this text and status 200."""

    text: str


Fault = Status | Cut | Stall | Flip | Length | IgnoreRange | Text


def spoiled(content: bytes, fault: object) -> bytes:
    """A file as a server with that fault has it."""
    if isinstance(fault, Flip):
        changed = bytearray(content)
        changed[fault.at] ^= 0x40
        return bytes(changed)
    if isinstance(fault, Length):
        return content.ljust(fault.bytes, b"\0")[: fault.bytes]
    return content


def part_of(content: bytes, asked: str | None) -> tuple[Mapping[str, str], bytes]:
    """The bytes that a Range header asks for, and the header that says which they are."""
    if not asked:
        return {}, content
    first, _, last = asked.removeprefix("bytes=").partition("-")
    start, end = int(first), int(last) + 1 if last else len(content)
    return {"Content-Range": f"bytes {start}-{end - 1}/{len(content)}"}, content[start:end]


class Exchange(BaseHTTPRequestHandler):
    """One request and its answer; which, says the `answer` that its server was made with."""

    answer: Callable[[Exchange], None]
    stopping: threading.Event

    def do_GET(self) -> None:
        type(self).answer(self)

    def begin(self, status: int, headers: Mapping[str, str], length: int) -> None:
        # Without the Date that send_response adds: some answers bring their own.
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def reply(self, status: int, headers: Mapping[str, str], body: bytes = b"") -> None:
        self.begin(status, headers, len(body))
        self.wfile.write(body)

    def send(
        self,
        headers: Mapping[str, str],
        body: bytes,
        fault: object = None,
        *,
        speed: float | None = None,
        sent: Callable[[int], None] = lambda count: None,
    ) -> None:
        """A file or a part of it, as far as the fault lets it come. `speed`: bytes per second."""
        self.begin(206 if "Content-Range" in headers else 200, headers, len(body))
        if speed is not None:  # what is on its way when a reader dies counts as sent
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _CHUNK)
        if isinstance(fault, Cut | Stall):
            body = body[: fault.after]
        for at in range(0, len(body), _CHUNK):
            chunk = body[at : at + _CHUNK]
            sent(len(chunk))  # before the reader can have it, and look at the count
            self.wfile.write(chunk)
            if speed is not None:
                self.stopping.wait(len(chunk) / speed)
        if isinstance(fault, Stall):
            self.stopping.wait()

    def log_message(self, format: str, *args: object) -> None:
        """The test's own output is enough."""


class LocalServer:
    """A server that has `answer` answer each request, on a thread, from `start` to `stop`."""

    def __init__(self, answer: Callable[[Exchange], None]) -> None:
        self.stopping = threading.Event()
        handler = type("Answering", (Exchange,), {"answer": answer, "stopping": self.stopping})
        self.http = _Server(("127.0.0.1", 0), handler)
        self.port: int = self.http.server_address[1]
        self._thread = threading.Thread(
            target=self.http.serve_forever, kwargs={"poll_interval": 0.002}, name="local-server"
        )

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self.stopping.set()
        self.http.shutdown()
        self._thread.join()
        self.http.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what some tests are about."""
        if not isinstance(sys.exception(), ConnectionError | ssl.SSLError):
            super().handle_error(request, client_address)
