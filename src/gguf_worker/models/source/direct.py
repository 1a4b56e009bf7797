"""One connection to an address that was checked, for the many bytes of a file.

It speaks HTTP by the standard library, which reads into a buffer that is used again: with many
connections several times as fast as the client for all other requests (decision 045). It follows
no redirect and uses no proxy; where it may connect to, others decide. Imported when first used.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx2

from gguf_worker.models.source.remote import Answer, Transient, hang_up, reason

if TYPE_CHECKING:
    import ssl

_BUFFER = 1 << 18
_FAILURES = (OSError, HTTPException)


@dataclass(frozen=True, slots=True)
class Route:
    """The way to a URL: the addresses of its host, checked, in the order to try them.

    `trust`: the certificates to believe; None for a URL without TLS. `headers`: those that this URL
    may get beside the request's own. `timeouts`: seconds for a connection to one address, and
    without a byte until it counts as lost.
    """

    url: str
    addresses: tuple[str, ...]
    trust: ssl.SSLContext | None
    headers: Mapping[str, str]
    timeouts: tuple[float, float]


class DirectConnection:
    """A connection to a route's host, for one request after the other.

    Used by one thread at a time, but for `cut`. Raises Transient where none of the addresses can be
    reached, or the connection is lost.
    """

    def __init__(self, route: Route) -> None:
        self._route = route
        self._url = urlsplit(route.url)
        self._buffer = memoryview(bytearray(_BUFFER))
        self._response: HTTPResponse | None = None
        self._connect()

    def _connect(self) -> None:
        name = self._url.hostname or ""
        try:
            self._socket = _connected(self._route, name, self._url.port)
        except OSError as exc:
            raise self._lost(exc) from exc
        self._http = HTTPConnection(name)
        self._http.auto_open = 0  # it would resolve the name itself
        self._http.sock = self._socket

    @property
    def reusable(self) -> bool:
        """The last answer was read to its end, and the server keeps the connection open."""
        last = self._response
        return last is not None and last.isclosed() and not last.will_close

    def ask(self, headers: Mapping[str, str]) -> Answer:
        """Send a request, and return its answer."""
        kept, self._response = self._response is not None, None
        try:
            response = self._asked(headers)
        except _FAILURES as exc:
            if not kept:
                raise self._lost(exc) from exc
            self.close()  # a server may close a connection that it kept open at any time
            self._connect()
            try:
                response = self._asked(headers)
            except _FAILURES as again:
                raise self._lost(again) from again
        self._response = response
        found = httpx2.Headers(response.headers.items())
        return Answer(self._route.url, response.status, found, self._chunks, self.cut)

    def _asked(self, headers: Mapping[str, str]) -> HTTPResponse:
        url, http = self._url, self._http
        path = f"{url.path or '/'}{f'?{url.query}' if url.query else ''}"
        http.putrequest("GET", path, skip_host=True, skip_accept_encoding=True)
        host = url.netloc.rpartition("@")[2]
        for name, value in {"Host": host, **self._route.headers, **headers}.items():
            http.putheader(name, value)
        http.endheaders()
        return http.getresponse()

    def cut(self) -> None:
        """End the connection, also while another thread reads from it."""
        hang_up(self._socket)

    def close(self) -> None:
        if self._response is not None:  # it may keep the socket open
            self._response.close()
        self._http.close()
        self._socket.close()

    def _chunks(self) -> Iterator[memoryview]:
        assert self._response is not None
        try:
            while count := self._response.readinto(self._buffer):
                yield self._buffer[:count]
        except _FAILURES as exc:
            raise self._lost(exc) from exc

    def _lost(self, cause: Exception) -> Transient:
        return Transient(f"{self._url.hostname}: {reason(cause)}")


def _connected(route: Route, name: str, port: int | None) -> socket.socket:
    """Return a socket to the first of the addresses that can be reached."""
    port = port or (80 if route.trust is None else 443)
    connect, silence = route.timeouts
    for address in route.addresses[:-1]:
        try:
            plain = socket.create_connection((address, port), connect)
            break
        except OSError:
            continue
    else:
        plain = socket.create_connection((route.addresses[-1], port), connect)
    try:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made = (
            plain if route.trust is None else route.trust.wrap_socket(plain, server_hostname=name)
        )
    except OSError:
        plain.close()
        raise
    made.settimeout(silence)
    return made
