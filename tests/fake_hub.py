"""A Hugging Face Hub on this machine, with a second host that it redirects downloads to.

It speaks the parts of the protocol that fetching a model needs, records every request, and
misbehaves on demand: `hub.misbehave("file", Cut(1000), Status(503))` spoils the next two downloads
in that order.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import deque
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Literal
from urllib.parse import unquote, urlsplit

from tests.local_server import (
    Exchange,
    Fault,
    IgnoreRange,
    LocalServer,
    Stall,
    Status,
    Text,
    part_of,
    spoiled,
)

COMMIT = "1f" * 20

Kind = Literal["info", "file"]
Host = Literal["hub", "cdn"]
_HOSTS: tuple[Host, ...] = ("hub", "cdn")


@dataclass(frozen=True)
class Request:
    host: Host
    path: str
    range: str | None
    authorization: str | None
    name: str = ""
    """The name by which the host was asked, with its port."""


@dataclass
class _File:
    content: bytes
    size: int
    sha256: str | None


def _blob(file: _File) -> str:
    """Return git's name of the content, or of the pointer that stands for it."""
    content = file.content if file.sha256 is None else b"pointer"
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class FakeHub:
    """Use as a context manager.

    `redirect`: downloads are sent on to the second host, as the Hub does.
    """

    def __init__(self, *, redirect: bool = True) -> None:
        self.redirect = redirect
        self.elsewhere: str | None = None
        """The address to send everything on to, files and questions, once it is set."""
        self.file_elsewhere: str | None = None
        """Another address of the second host, to send downloads on to, once it is set."""
        self.token: str | None = None
        """The token that a caller must show to the hub itself, once it is set."""
        self.requests: list[Request] = []
        self.before_file = threading.Event()
        """Downloads wait for it; set from the start, clear it to hold them up."""
        self.before_file.set()
        self.file_asked = threading.Event()
        self.bytes_per_second: float | None = None
        """The speed of files; None: as fast as they are read."""
        self.sent_bytes = 0
        """Bytes of files, by all connections."""
        self.expires_after: int | None = None
        """The number of downloads after which the second host refuses the addresses it was given
        until then, as too old."""
        self._signature = 0
        self._counting = threading.Lock()
        self._repos: dict[str, dict[str, dict[str, _File]]] = {}
        self._heads: dict[str, str] = {}
        self._faults: dict[Kind, deque[Fault]] = {"info": deque(), "file": deque()}
        self._hosts = {name: LocalServer(partial(self.answer, name)) for name in _HOSTS}

    def __enter__(self) -> FakeHub:
        for host in self._hosts.values():
            host.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.before_file.set()
        for host in self._hosts.values():
            host.stop()

    @property
    def url(self) -> str:
        return self._url("hub")

    @property
    def cdn_port(self) -> int:
        """The port of the second host, whatever name it is asked by."""
        return self._hosts["cdn"].port

    def _url(self, host: Host) -> str:
        return f"http://127.0.0.1:{self._hosts[host].port}"

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

    def answer(self, host: Host, exchange: Exchange) -> None:
        path = unquote(urlsplit(exchange.path).path)
        given = exchange.headers.get("Authorization")
        self.requests.append(
            Request(host, path, exchange.headers.get("Range"), given, exchange.headers["Host"])
        )
        if host == "hub" and self.token and given != f"Bearer {self.token}":
            exchange.reply(403 if given else 401, {"X-Error-Code": "GatedRepo"})
        elif host == "hub" and self.elsewhere is not None:
            exchange.reply(302, {"Location": self.elsewhere + exchange.path})
        elif path.startswith("/api/models/"):
            self._info(exchange, path.removeprefix("/api/models/"))
        elif host == "hub" and self.redirect:
            cdn = self.file_elsewhere or self._url("cdn")
            location = f"{cdn}{exchange.path}?signature={self._signature}"
            exchange.reply(302, {"Location": location})
        elif host == "cdn" and self._has_expired(urlsplit(exchange.path).query):
            exchange.reply(403, {})
        else:
            self._file(exchange, path.removeprefix("/"))

    def _has_expired(self, query: str) -> bool:
        if self.expires_after is not None and len(self.downloads()) > self.expires_after:
            self.expires_after = None
            self._signature += 1
        return query.startswith("signature=") and query != f"signature={self._signature}"

    def _info(self, exchange: Exchange, path: str) -> None:
        repo, _, revision = path.partition("/revision/")
        fault = self._next_fault("info")
        if isinstance(fault, Status):
            return exchange.reply(fault.code, fault.headers, fault.text.encode())
        if isinstance(fault, Text):
            return exchange.reply(200, {"Content-Type": "text/html"}, fault.text.encode())
        if isinstance(fault, Stall):
            return exchange.send({}, b"{}", fault)
        if repo not in self._repos:
            return exchange.reply(404, {"X-Error-Code": "RepoNotFound"})
        commit = self._heads[repo] if revision == "main" else revision
        if commit not in self._repos[repo]:
            return exchange.reply(404, {"X-Error-Code": "RevisionNotFound"})
        siblings = [
            {"rfilename": name, "size": file.size, "blobId": _blob(file)}
            | (
                {"lfs": {"sha256": file.sha256, "size": file.size, "pointerSize": 134}}
                if file.sha256
                else {}
            )
            for name, file in self._repos[repo][commit].items()
        ]
        body = {"id": repo, "sha": commit, "siblings": siblings}
        return exchange.reply(200, {"Content-Type": "application/json"}, json.dumps(body).encode())

    def _file(self, exchange: Exchange, path: str) -> None:
        repo, _, rest = path.partition("/resolve/")
        commit, _, name = rest.partition("/")
        file = self._repos.get(repo, {}).get(commit, {}).get(name)
        self.file_asked.set()
        self.before_file.wait()
        fault = self._next_fault("file")
        if isinstance(fault, Status):
            return exchange.reply(fault.code, fault.headers, fault.text.encode())
        if file is None:
            return exchange.reply(404, {"X-Error-Code": "EntryNotFound"})
        asked = None if isinstance(fault, IgnoreRange) else exchange.headers.get("Range")
        headers, body = part_of(spoiled(file.content, fault), asked)
        exchange.send(headers, body, fault, speed=self.bytes_per_second, sent=self._count)

    def _count(self, sent: int) -> None:
        with self._counting:
            self.sent_bytes += sent

    def _next_fault(self, kind: Kind) -> Fault | None:
        waiting = self._faults[kind]
        return waiting.popleft() if waiting else None
