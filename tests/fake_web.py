"""A web server with TLS on this machine: it knows ETags and ranges, redirects, and misbehaves on demand."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.fake_hub import Cut, Fault, Flip, IgnoreRange, Length, Stall, Status

NAMES = ("models.test", "cdn.test", "inside.test")


def make_certificate(folder: Path) -> Path:
    """A certificate of all NAMES and its key in one file; who trusts it trusts the server."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl here to make a certificate with")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        [
            openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
            "-nodes", "-days", "2", "-subj", "/CN=models.test", "-keyout", str(key), "-out",
            str(certificate), "-addext", f"subjectAltName={','.join(f'DNS:{name}' for name in NAMES)}",
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    whole = folder / "whole.pem"
    whole.write_text(key.read_text() + certificate.read_text())
    return whole


@dataclass(frozen=True)
class Change:
    """Answer as if the file had been replaced by one with this ETag."""

    etag: str


@dataclass(frozen=True)
class Seen:
    host: str
    path: str
    headers: Mapping[str, str]


class FakeWeb:
    """Use as a context manager. One file under every path that ends in .gguf; `redirects` go by path."""

    def __init__(self, certificate: Path, content: bytes) -> None:
        self.content = content
        self.etag: str | None = '"v1"'
        self.last_modified: str | None = None
        self.redirects: dict[str, str] = {}
        self.requests: list[Seen] = []
        self._faults: deque[Fault | Change] = deque()
        self._stopping = threading.Event()
        handler = type("Handler", (_Handler,), {"web": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}
        )

    def __enter__(self) -> FakeWeb:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def url(self, path: str = "/m.gguf", host: str = "models.test") -> str:
        return f"https://{host}:{self.port}{path}"

    def misbehave(self, *faults: Fault | Change) -> None:
        """Spoil the next answers that bring the file, in that order."""
        self._faults.extend(faults)

    def ranges(self) -> list[str | None]:
        return [seen.headers.get("range") for seen in self.requests]

    def answer(self, handler: _Handler) -> None:
        headers = {name.lower(): value for name, value in handler.headers.items()}
        self.requests.append(Seen(headers.get("host", ""), handler.path, headers))
        if handler.path in self.redirects:
            return handler.begin(302, {"Location": self.redirects[handler.path]}, 0)
        asked = headers.get("range")
        probing = asked == "bytes=0-0"
        fault = self._faults.popleft() if self._faults and not probing else None
        if isinstance(fault, Status):
            return handler.begin(fault.code, fault.headers, 0)
        return self._file(handler, headers, asked, fault)

    def _file(
        self,
        handler: _Handler,
        headers: Mapping[str, str],
        asked: str | None,
        fault: Fault | Change | None,
    ) -> None:
        content = self.content
        if isinstance(fault, Flip):
            content = content[: fault.at] + bytes([content[fault.at] ^ 1]) + content[fault.at + 1 :]
        if isinstance(fault, Length):
            content = content.ljust(fault.bytes, b"\0")[: fault.bytes]
        etag = fault.etag if isinstance(fault, Change) else self.etag
        given = {"ETag": etag} if etag else {}
        if self.last_modified:
            given["Last-Modified"] = self.last_modified
        wanted = headers.get("if-range")
        fresh = wanted is None or wanted in given.values()
        first, last = 0, len(content) - 1
        if asked and fresh and not isinstance(fault, IgnoreRange):
            low, _, high = asked.removeprefix("bytes=").partition("-")
            first, last = int(low), int(high or last)
            given["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        body = content[first : last + 1]
        handler.begin(206 if "Content-Range" in given else 200, given, len(body))
        if isinstance(fault, Cut | Stall):
            handler.wfile.write(body[: fault.after])
            if isinstance(fault, Stall):
                self._stopping.wait()
        else:
            handler.wfile.write(body)


class _Handler(BaseHTTPRequestHandler):
    web: FakeWeb

    def do_GET(self) -> None:
        self.web.answer(self)

    def begin(self, status: int, headers: Mapping[str, str], length: int) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """The test's own output is enough."""


class _Server(ThreadingHTTPServer):
    daemon_threads = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what some tests are about."""
