"""A web server with TLS on this machine: it knows ETags and ranges, redirects, and misbehaves on
demand.
"""

from __future__ import annotations

import shutil
import ssl
import subprocess
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.local_server import (
    Exchange,
    Fault,
    IgnoreRange,
    LocalServer,
    Status,
    part_of,
    spoiled,
)

NAMES = ("models.test", "cdn.test", "inside.test")


def make_certificate(folder: Path) -> Path:
    """A certificate of all NAMES and this machine, and its key in one file.

    Who trusts it trusts the server.
    """
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl here to make a certificate with")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    names = ",".join([*(f"DNS:{name}" for name in NAMES), "IP:127.0.0.1"])
    subprocess.run(
        [
            openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
            "-nodes", "-days", "2", "-subj", "/CN=models.test", "-keyout", str(key), "-out",
            str(certificate), "-addext", f"subjectAltName={names}",
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
    """Use as a context manager.

    One file under every path that ends in .gguf; `redirects` go by path.
    """

    def __init__(self, certificate: Path, content: bytes) -> None:
        self.content = content
        self.etag: str | None = '"v1"'
        self.last_modified: str | None = None
        self.redirects: dict[str, str] = {}
        self.requests: list[Seen] = []
        self._faults: deque[Fault | Change] = deque()
        self._server = LocalServer(self.answer)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        http = self._server.http
        http.socket = context.wrap_socket(http.socket, server_side=True)
        self.port = self._server.port

    def __enter__(self) -> FakeWeb:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()

    def url(self, path: str = "/m.gguf", host: str = "models.test") -> str:
        return f"https://{host}:{self.port}{path}"

    def misbehave(self, *faults: Fault | Change) -> None:
        """Spoil the next answers that bring the file, in that order."""
        self._faults.extend(faults)

    def ranges(self) -> list[str | None]:
        return [seen.headers.get("range") for seen in self.requests]

    def answer(self, exchange: Exchange) -> None:
        headers = {name.lower(): value for name, value in exchange.headers.items()}
        self.requests.append(Seen(headers.get("host", ""), exchange.path, headers))
        if exchange.path in self.redirects:
            return exchange.begin(302, {"Location": self.redirects[exchange.path]}, 0)
        asked = headers.get("range")
        probing = asked == "bytes=0-0"
        fault = self._faults.popleft() if self._faults and not probing else None
        if isinstance(fault, Status):
            return exchange.begin(fault.code, fault.headers, 0)
        return self._file(exchange, headers, asked, fault)

    def _file(
        self,
        exchange: Exchange,
        told: Mapping[str, str],
        asked: str | None,
        fault: Fault | Change | None,
    ) -> None:
        etag = fault.etag if isinstance(fault, Change) else self.etag
        given = {"ETag": etag} if etag else {}
        if self.last_modified:
            given["Last-Modified"] = self.last_modified
        wanted = told.get("if-range")
        fresh = wanted is None or wanted in given.values()
        ranged = asked if fresh and not isinstance(fault, IgnoreRange) else None
        headers, body = part_of(spoiled(self.content, fault), ranged)
        exchange.send({**given, **headers}, body, fault)
