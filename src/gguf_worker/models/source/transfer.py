"""The bytes of one file over many connections at once, which share what they learn of its server.

The first request goes where the source sends it, with its guards. Its answer says whether the
server has ranges, which version of the file it has and, after redirects, at which address the bytes
are; the others ask there, over connections of their own. An address that is refused or fails is
forgotten, and one request, not one for each connection, asks the source's server for a new one.
A server that asks to wait is left alone by all connections, and gets half as many from then on.
Disks, and which range is fetched when, are not known here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from gguf_worker.errors import ModelCorrupt
from gguf_worker.models.source.remote import (
    WORTHWHILE,
    Answer,
    Patience,
    Refused,
    RemoteFile,
    Transient,
    body_from,
    range_of,
)

if TYPE_CHECKING:
    from gguf_worker.models.source.direct import DirectConnection, Route

_BRINGS = (200, 206)
_REDIRECTS = range(300, 400)
_MOST_USELESS = 3
"""Places in a row that never brought anything, after which none is remembered any more."""

Data = bytes | memoryview
"""Bytes of a file; a memoryview is valid until the next one is asked for."""


class FileServer(Protocol):
    """What a source knows of its servers: how to ask one, and what its answers mean."""

    def ask(self, url: str, headers: Mapping[str, str]) -> AbstractContextManager[Answer]:
        """Yield the answer at the end of all redirects. Raises StartError or Transient."""
        ...

    def check(self, answer: Answer, remote: RemoteFile) -> None:
        """Raise StartError or Transient unless the answer brings the file's bytes."""
        ...

    def version(self, answer: Answer) -> str | None:
        """Return the server's identifier of the content; None where it says nothing."""
        ...

    def route(self, url: str) -> Route | None:
        """Return the checked way to an address; None where only `ask` may go there, as by a proxy.

        Raises StartError or Transient.
        """
        ...


class Ranges(Protocol):
    """The ranges of one file. Each method may be called by several threads at once."""

    @property
    def whole(self) -> bool:
        """The server sends the whole file whatever is asked for."""
        ...

    def slot(self) -> AbstractContextManager[None]:
        """Wait until one more connection is welcome, and count it until the end."""
        ...

    def range(self, at: int, end: Callable[[], int]) -> Iterator[Data]:
        """Yield the file's bytes from `at` up to `end`, which may move meanwhile.

        Raises DownloadFailed when connections keep failing without progress, or the server has
        another file than its metadata says; ModelCorrupt when it was changed meanwhile;
        ModelUnavailable when the server refuses.
        """
        ...

    def close(self) -> None:
        """End all connections. Who is waiting for one gets its end."""
        ...


@dataclass(slots=True, eq=False)
class _Place:
    """The address of the bytes, as the server behind `FileServer.ask` gave it."""

    url: str
    proven: bool = False
    """It has brought bytes to a request that went straight to it."""


class TransferClosed(Exception):
    """The transfer was ended by another thread."""


class Transfer:
    """The ranges of one file. `most`: connections at once.

    Knows nothing of the server until the first answer, so only one connection is made before.
    """

    def __init__(
        self, remote: RemoteFile, server: FileServer, patience: Patience, most: int = 1
    ) -> None:
        self._remote = remote
        self._server = server
        self._patience = patience
        self._most = most
        self._version = remote.version
        self._answered = False
        self.whole = False
        # The place of the bytes, who asks for it, and connections, under `_places`.
        self._places = threading.Condition()
        self._place: _Place | None = None
        self._asker: object | None = None
        self._useless = 0 if most > 1 else _MOST_USELESS
        self._idle: list[tuple[_Place, DirectConnection]] = []
        self._cuts: set[Callable[[], None]] = set()
        self._closed = threading.Event()
        # Who may connect, under `_turns`.
        self._turns = threading.Condition()
        self._open = 0
        self._limit = 1
        # Failures, under `_gate`, which whoever waits for the server's sake holds meanwhile.
        self._gate = threading.Lock()
        self._round = 0
        self._failures = 0
        self._received = 0
        self._received_before = 0

    def close(self) -> None:
        self._closed.set()
        with self._places:
            for cut in self._cuts:
                cut()
            idle, self._idle = self._idle, []
            self._places.notify_all()
        for _, connection in idle:
            connection.close()
        with self._turns:
            self._turns.notify_all()

    @contextmanager
    def slot(self) -> Iterator[None]:
        with self._turns:
            self._turns.wait_for(lambda: self._open < self._limit or self._closed.is_set())
            self._open += 1
        try:
            yield
        finally:
            with self._turns:
                self._open -= 1
                self._turns.notify_all()

    def range(self, at: int, end: Callable[[], int]) -> Iterator[Data]:
        while at < (asked := min(end(), self._remote.size)):
            with self._gate:
                begun = self._round
            self._check_open()
            try:
                for data in self._body(at, asked, end):
                    at += len(data)
                    self._received += len(data)  # roughly: only failures look at it
                    yield data
            except _Stale:
                continue
            except Transient as exc:
                self._check_open()
                self._recover(exc, begun)

    # Failures

    def _recover(self, cause: Transient, begun: int) -> None:
        """Wait before the next request, or raise DownloadFailed if there should be none.

        A failure of a request that began before the last wait tells nothing new. All wait, unless
        it is a connection that was lost while others bring bytes.
        """
        with self._gate:
            self._check_open()
            if begun != self._round:
                return
            self._round += 1
            flowing = self._received - self._received_before >= WORTHWHILE
            self._received_before = self._received
            self._failures = 1 if flowing else self._failures + 1
            failures = self._failures
            if isinstance(cause, Refused):
                self._lower_limit()
            if isinstance(cause, Refused) or not flowing:
                self._wait(cause, failures)
                return
        self._wait(cause, failures)

    def _wait(self, cause: Transient, failures: int) -> None:
        self._patience.wait(f"fetching {self._remote}", failures, cause, ended=self._closed)

    def _lower_limit(self) -> None:
        with self._turns:
            self._most = max(self._most // 2, 1)
            self._limit = min(self._limit, self._most)

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise TransferClosed

    # Answers

    def _body(self, at: int, asked: int, end: Callable[[], int]) -> Iterator[Data]:
        """Yield the bytes that one connection brings, from `at` on."""
        headers = {"Accept-Encoding": "identity", **range_of(self._remote, at, asked)}
        if at and self._version:
            headers["If-Range"] = self._version
        with self._answer(headers) as answer:
            self._learn(answer, at)
            stop = end if answer.status == 200 else lambda: min(asked, end())
            for data in body_from(answer, self._remote, at, stop):
                at += len(data)
                yield data
            if at < stop():
                raise Transient("the connection ended early")

    def _learn(self, answer: Answer, at: int) -> None:
        """Check the answer, and take from it what all connections have to know."""
        self._server.check(answer, self._remote)
        found = self._server.version(answer)
        with self._turns:
            if at == 0 and not self._answered:
                self._version = found
            elif found != self._version:
                raise ModelCorrupt(f"{self._remote.file} was changed on its server meanwhile.")
            self._answered = True
            self.whole = answer.status == 200
            self._limit = 1 if self.whole else self._most
            self._turns.notify_all()

    @contextmanager
    def _answer(self, headers: Mapping[str, str]) -> Iterator[Answer]:
        """Yield the answer of the place of the bytes, or of the server that knows it."""
        asker = object()
        place = self._place_or_turn(asker)
        try:
            if place is not None:
                with self._from_place(place, headers) as answer:
                    yield answer
                return
            with self._guarded(self._remote.url, headers) as answer:
                place = self._told(asker, answer)
                yield answer
        except Transient:
            self._forget(place)
            raise
        finally:
            self._told(asker, None)

    def _place_or_turn(self, asker: object) -> _Place | None:
        """Return the place of the bytes; None: it is the caller's turn to ask for it.

        The others wait for what the one learns.
        """
        with self._places:
            self._places.wait_for(
                lambda: self._place or self._asker is None or self._closed.is_set()
            )
            self._check_open()
            if self._place is None:
                self._asker = asker
            return self._place

    def _told(self, asker: object, answer: Answer | None) -> _Place | None:
        """End the caller's turn to ask, and remember the place that it was told."""
        with self._places:
            if self._asker is not asker:
                return None
            if answer is not None and answer.status == 206 and self._useless < _MOST_USELESS:
                self._place = _Place(answer.url)
            self._asker = None
            self._places.notify_all()
            return self._place

    def _forget(self, place: _Place | None) -> None:
        """Have the server asked for a new place, unless that has happened meanwhile."""
        with self._places:
            if place is None or self._place is not place:
                return
            self._place = None
            idle, self._idle = self._idle, []
        for _, connection in idle:
            connection.close()

    @contextmanager
    def _from_place(self, place: _Place, headers: Mapping[str, str]) -> Iterator[Answer]:
        """Yield the answer of the place itself.

        Raises _Stale where it is refused: its signature may be too old.
        """
        connection = self._taken(place)
        opened = (
            self._guarded(place.url, headers)
            if connection is None
            else self._direct(place, connection, headers)
        )
        with opened as answer:
            if answer.is_refusal or answer.status in _REDIRECTS:
                with self._places:
                    self._useless += self._place is place and not place.proven
                self._forget(place)
                raise _Stale(f"the address of the bytes was refused (status {answer.status})")
            if answer.status in _BRINGS:
                place.proven, self._useless = True, 0
            yield answer

    @contextmanager
    def _guarded(self, url: str, headers: Mapping[str, str]) -> Iterator[Answer]:
        with self._server.ask(url, headers) as answer, self._cuttable(answer.cut):
            yield answer

    def _taken(self, place: _Place) -> DirectConnection | None:
        """Return a connection to a place; None where one may only be asked for by `ask`."""
        with self._places:
            for kept in self._idle:
                if kept[0] is place:
                    self._idle.remove(kept)
                    return kept[1]
        route = self._server.route(place.url)
        if route is None:
            return None
        from gguf_worker.models.source.direct import DirectConnection

        return DirectConnection(route)

    @contextmanager
    def _direct(
        self, place: _Place, connection: DirectConnection, headers: Mapping[str, str]
    ) -> Iterator[Answer]:
        try:
            with self._cuttable(connection.cut):
                yield connection.ask(headers)
        finally:
            with self._places:
                keep = connection.reusable and self._place is place and not self._closed.is_set()
                if keep:
                    self._idle.append((place, connection))
            if not keep:
                connection.close()

    @contextmanager
    def _cuttable(self, cut: Callable[[], None]) -> Iterator[None]:
        """Let `close` end the connection meanwhile."""
        with self._places:
            self._check_open()
            self._cuts.add(cut)
        try:
            yield
        finally:
            with self._places:
                self._cuts.discard(cut)


class _Stale(Transient):
    """The remembered place of the bytes is refused; the server that told it may know another."""


def read_range(ranges: Ranges, offset: int, end: int) -> Iterator[bytes]:
    """Yield a file's bytes from `offset` to `end`, and close its ranges."""
    with closing(ranges):
        for data in ranges.range(offset, lambda: end):
            yield bytes(data)
