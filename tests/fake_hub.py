"""A Hugging Face Hub on this machine, with a second host that it redirects downloads to.

It speaks the parts of the protocol that fetching a model needs, records every request, and misbehaves
on demand: `hub.misbehave("file", Cut(1000), Status(503))` spoils the next two downloads in that order.
"""

from __future__ import annotations

import hashlib
import json
import socket
import sys
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

COMMIT = "1f" * 20

Kind = Literal["info", "file"]

_PIECE = 64 * 1024


@dataclass(frozen=True)
class Status:
    """Answer with a status and nothing else."""

    code: int
    headers: Mapping[str, str] = field(default_factory=dict)


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


@dataclass(frozen=True)
class Request:
    host: Literal["hub", "cdn"]
    path: str
    range: str | None
    authorization: str | None
    name: str = ""
    """By which the host was asked, with its port."""


@dataclass
class _File:
    content: bytes
    size: int
    sha256: str | None


class FakeHub:
    """Use as a context manager. `redirect`: downloads are sent on to the second host, as the Hub does."""

    def __init__(self, *, redirect: bool = True) -> None:
        self.redirect = redirect
        self.elsewhere: str | None = None
        """Once set, the address to send everything on to, files and questions."""
        self.token: str | None = None
        """Once set, what a caller must show to the hub itself."""
        self.requests: list[Request] = []
        self.before_file = threading.Event()
        """Downloads wait for it; set from the start, clear it to hold them up."""
        self.before_file.set()
        self.file_asked = threading.Event()
        self.bytes_per_second: float | None = None
        """How fast files are sent; None: as fast as they are read."""
        self.sent_bytes = 0
        """Of files, by all connections."""
        self._repos: dict[str, dict[str, dict[str, _File]]] = {}
        self._heads: dict[str, str] = {}
        self._faults: dict[Kind, deque[Fault]] = {"info": deque(), "file": deque()}
        self._stopping = threading.Event()
        self._hosts = {name: _Host(name, self) for name in ("hub", "cdn")}

    def __enter__(self) -> FakeHub:
        for host in self._hosts.values():
            host.thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping.set()
        self.before_file.set()
        for host in self._hosts.values():
            host.stop()

    @property
    def url(self) -> str:
        return self._hosts["hub"].url

    @property
    def cdn_port(self) -> int:
        """Where the second host listens, whatever name it is asked by."""
        return int(self._hosts["cdn"].url.rpartition(":")[2])

    def add(
        self,
        repo: str,
        file: str,
        content: bytes,
        *,
        commit: str = COMMIT,
        claimed_sha256: str | None = None,
        lfs: bool = True,
    ) -> None:
        """Publish a file in a commit, which becomes the repository's `main`."""
        sha256 = claimed_sha256 or hashlib.sha256(content).hexdigest()
        entry = _File(content, len(content), sha256 if lfs else None)
        self._repos.setdefault(repo, {}).setdefault(commit, {})[file] = entry
        self._heads[repo] = commit

    def misbehave(self, kind: Kind, *faults: Fault) -> None:
        self._faults[kind].extend(faults)

    def downloads(self) -> list[Request]:
        """The requests that were for a file's bytes, as the last host saw them."""
        last = "cdn" if self.redirect else "hub"
        return [seen for seen in self.requests if seen.host == last and "/api/" not in seen.path]

    def answer(self, handler: _Handler) -> None:
        host = handler.host
        path = unquote(urlsplit(handler.path).path)
        given = handler.headers.get("Authorization")
        self.requests.append(
            Request(host, path, handler.headers.get("Range"), given, handler.headers["Host"])
        )
        if host == "hub" and self.token and given != f"Bearer {self.token}":
            handler.reply(403 if given else 401, {"X-Error-Code": "GatedRepo"})
        elif host == "hub" and self.elsewhere is not None:
            handler.reply(302, {"Location": self.elsewhere + handler.path})
        elif path.startswith("/api/models/"):
            self._info(handler, path.removeprefix("/api/models/"))
        elif host == "hub" and self.redirect:
            handler.reply(302, {"Location": self._hosts["cdn"].url + handler.path})
        else:
            self._file(handler, path.removeprefix("/"))

    def _info(self, handler: _Handler, path: str) -> None:
        repo, _, revision = path.partition("/revision/")
        fault = self._next_fault("info")
        if isinstance(fault, Status):
            return handler.reply(fault.code, fault.headers)
        if isinstance(fault, Text):
            return handler.reply(200, {"Content-Type": "text/html"}, fault.text.encode())
        if repo not in self._repos:
            return handler.reply(404, {"X-Error-Code": "RepoNotFound"})
        commit = self._heads[repo] if revision == "main" else revision
        if commit not in self._repos[repo]:
            return handler.reply(404, {"X-Error-Code": "RevisionNotFound"})
        siblings = [
            {"rfilename": name, "size": file.size, "blobId": "b10b"}
            | (
                {"lfs": {"sha256": file.sha256, "size": file.size, "pointerSize": 134}}
                if file.sha256
                else {}
            )
            for name, file in self._repos[repo][commit].items()
        ]
        body = {"id": repo, "sha": commit, "siblings": siblings}
        return handler.reply(200, {"Content-Type": "application/json"}, json.dumps(body).encode())

    def _file(self, handler: _Handler, path: str) -> None:
        repo, _, rest = path.partition("/resolve/")
        commit, _, name = rest.partition("/")
        file = self._repos.get(repo, {}).get(commit, {}).get(name)
        self.file_asked.set()
        self.before_file.wait()
        fault = self._next_fault("file")
        if isinstance(fault, Status):
            return handler.reply(fault.code, fault.headers)
        if file is None:
            return handler.reply(404, {"X-Error-Code": "EntryNotFound"})
        content = file.content
        if isinstance(fault, Flip):
            changed = bytearray(content)
            changed[fault.at] ^= 0x40
            content = bytes(changed)
        if isinstance(fault, Length):
            content = content.ljust(fault.bytes, b"\0")[: fault.bytes]
        asked = handler.headers.get("Range")
        headers, body = {}, content
        if asked and not isinstance(fault, IgnoreRange):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, end = int(first), int(last) + 1 if last else len(content)
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
            body = content[start:end]
        status = 206 if headers else 200
        if isinstance(fault, Cut | Stall):
            handler.begin(status, headers, len(body))
            self._send(handler, body[: fault.after])
            if isinstance(fault, Stall):
                self._stopping.wait()
            return None
        handler.begin(status, headers, len(body))
        return self._send(handler, body)

    def _send(self, handler: _Handler, body: bytes) -> None:
        if (
            self.bytes_per_second is not None
        ):  # what is on its way when a reader dies counts as sent
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _PIECE)
        for at in range(0, len(body), _PIECE):
            piece = body[at : at + _PIECE]
            handler.wfile.write(piece)
            self.sent_bytes += len(piece)
            if self.bytes_per_second is not None:
                self._stopping.wait(len(piece) / self.bytes_per_second)

    def _next_fault(self, kind: Kind) -> Fault | None:
        waiting = self._faults[kind]
        return waiting.popleft() if waiting else None


class _Handler(BaseHTTPRequestHandler):
    host: Literal["hub", "cdn"]
    hub: FakeHub

    def do_GET(self) -> None:
        self.hub.answer(self)

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

    def log_message(self, format: str, *args: object) -> None:
        """The test's own output is enough."""


class _Server(ThreadingHTTPServer):
    daemon_threads = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what some tests are about."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Host:
    def __init__(self, name: str, hub: FakeHub) -> None:
        handler = type(f"{name.title()}Handler", (_Handler,), {"host": name, "hub": hub})
        self._server = _Server(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, name=f"fake-{name}"
        )

    def stop(self) -> None:
        self._server.shutdown()
        self.thread.join()
        self._server.server_close()
