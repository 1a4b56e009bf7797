from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from gguf_worker.errors import DownloadFailed
from gguf_worker.models.source.direct import Route
from gguf_worker.models.source.remote import Answer, Patience, RemoteFile, trouble
from gguf_worker.models.source.transfer import Transfer, TransferClosed
from tests.waiting import until

CONTENT = bytes(range(256)) * 40
SIZE = len(CONTENT)
REMOTE = RemoteFile("org/a", "a.gguf", "1f" * 20, SIZE, None, "https://hub.test/a.gguf")
PLACE = "https://cdn.test/a.gguf?signature=1"


class _Server:
    """A server that sends on to PLACE, and answers as `script` says first.

    Each entry is a status, or headers and a body in place of those of the range.
    """

    def __init__(self, *script: int | tuple[Mapping[str, str], bytes]) -> None:
        self.script = list(script)
        self.urls: list[str] = []
        self.open = self.most_open = 0
        self.go = threading.Event()
        self.go.set()
        self.cuts = 0
        self.headers_of_refusal: Mapping[str, str] = {}
        self._lock = threading.Lock()

    @contextmanager
    def ask(self, url: str, headers: Mapping[str, str]) -> Iterator[Answer]:
        with self._lock:
            self.urls.append(url)
            self.open += 1
            self.most_open = max(self.most_open, self.open)
            fault = self.script.pop(0) if self.script else 0
        try:
            assert self.go.wait(20)
            yield self._answer(headers, fault)
        finally:
            with self._lock:
                self.open -= 1

    def _answer(
        self, headers: Mapping[str, str], fault: int | tuple[Mapping[str, str], bytes]
    ) -> Answer:
        if isinstance(fault, int) and fault:
            return Answer(PLACE, fault, self.headers_of_refusal, lambda: iter(()), self._cut)
        first, _, last = headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        start, end = int(first), int(last) + 1 if last else SIZE
        told: Mapping[str, str] = {"Content-Range": f"bytes {start}-{end - 1}/{SIZE}"}
        body = CONTENT[start:end]
        if isinstance(fault, tuple):
            told, body = {**told, **fault[0]}, fault[1] or body
        return Answer(PLACE, 206, told, lambda: self._chunks(body), self._cut)

    def _chunks(self, body: bytes) -> Iterator[bytes]:
        for at in range(0, len(body), 64):
            yield body[at : at + 64]

    def _cut(self) -> None:
        self.cuts += 1

    def check(self, answer: Answer, remote: RemoteFile) -> None:
        if answer.status not in (200, 206):
            raise trouble(answer.status, answer.headers, "fetching it")

    def version(self, answer: Answer) -> None:
        """Nothing is told apart."""

    def route(self, url: str) -> Route | None:
        """Everything goes by `ask`."""


def _transfer(server: _Server, slept: list[float], most: int = 4) -> Transfer:
    patience = Patience("check it", sleep=slept.append, jitter=lambda: 1.0)
    return Transfer(REMOTE, server, patience, most)


def _read(transfer: Transfer, at: int, end: int) -> bytes:
    with transfer.slot():
        return b"".join(bytes(data) for data in transfer.range(at, lambda: end))


def _read_all(transfer: Transfer, pieces: Sequence[tuple[int, int]]) -> bytes:
    with ThreadPoolExecutor(len(pieces)) as pool:
        return b"".join(pool.map(lambda piece: _read(transfer, *piece), pieces))


QUARTERS = [(at, at + SIZE // 4) for at in range(0, SIZE, SIZE // 4)]


def test_one_connection_learns_the_address_and_the_others_wait_for_it(slept: list[float]) -> None:
    server = _Server()
    server.go.clear()
    transfer = _transfer(server, slept)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(_read_all, transfer, QUARTERS)
        until(lambda: server.urls)
        assert server.urls == [REMOTE.url]
        server.go.set()
        assert reading.result(20) == CONTENT
    assert server.urls == [REMOTE.url, PLACE, PLACE, PLACE]


def test_with_one_connection_each_failure_asks_for_a_new_address(slept: list[float]) -> None:
    server = _Server(0, 503)
    transfer = _transfer(server, slept, most=1)
    assert _read(transfer, 0, 100) + _read(transfer, 100, 200) == CONTENT[:200]
    assert server.urls == [REMOTE.url] * 3


def test_a_server_that_asks_to_wait_is_left_alone_by_all_and_waited_for_once(
    slept: list[float],
) -> None:
    server = _Server()
    transfer = _transfer(server, slept)
    assert _read(transfer, 0, 100) == CONTENT[:100]
    server.headers_of_refusal = {"Retry-After": "33"}
    server.script = [429] * 4
    server.go.clear()
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(_read_all, transfer, QUARTERS)
        until(lambda: server.open == 4)
        server.go.set()
        assert reading.result(20) == CONTENT
    assert slept == [33.0]


def test_a_server_that_refuses_gets_half_as_many_connections_from_then_on(
    slept: list[float],
) -> None:
    server = _Server()
    transfer = _transfer(server, slept)
    _read(transfer, 0, 100)
    server.script = [503]
    _read(transfer, 0, 100)
    server.most_open = 0
    server.go.clear()
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(_read_all, transfer, QUARTERS)
        until(lambda: server.open == 2)
        server.go.set()
        assert reading.result(20) == CONTENT
    assert server.most_open == 2


def test_a_server_that_refuses_the_first_request_is_not_left_with_one_connection(
    slept: list[float],
) -> None:
    server = _Server(429)
    transfer = _transfer(server, slept)
    _read(transfer, 0, 100)
    server.go.clear()
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(_read_all, transfer, QUARTERS)
        until(lambda: server.open == 2)
        server.go.set()
        assert reading.result(20) == CONTENT


def test_a_refused_address_is_asked_for_anew_once_however_many_connections_had_it(
    slept: list[float],
) -> None:
    server = _Server()
    transfer = _transfer(server, slept)
    _read(transfer, 0, 100)
    _read(transfer, 0, 100)
    server.urls.clear()
    server.script = [403] * 4
    server.go.clear()
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(_read_all, transfer, QUARTERS)
        until(lambda: server.open == 4)
        server.go.set()
        assert reading.result(20) == CONTENT
    assert server.urls.count(REMOTE.url) == 1
    assert slept == []


def test_addresses_that_never_work_are_not_remembered_for_ever(slept: list[float]) -> None:
    server = _Server(0, 403, 0, 403, 0, 403)
    transfer = _transfer(server, slept)
    for at in range(0, 600, 100):
        assert _read(transfer, at, at + 100) == CONTENT[at : at + 100]
    assert server.urls == [*[REMOTE.url, PLACE] * 3, *[REMOTE.url] * 3]
    assert slept == []


def test_a_compressed_body_is_refused_in_words(slept: list[float]) -> None:
    transfer = _transfer(_Server(({"Content-Encoding": "gzip"}, b"")), slept)
    with pytest.raises(DownloadFailed, match=r"a\.gguf compressed \(gzip\)"):
        _read(transfer, 0, 100)


def test_of_a_body_that_is_too_long_no_more_is_taken_than_was_asked_for(
    slept: list[float],
) -> None:
    transfer = _transfer(_Server(({}, CONTENT[:500] + bytes(100_000))), slept)
    assert _read(transfer, 0, 500) == CONTENT[:500]


def test_a_body_that_is_too_short_is_completed(slept: list[float]) -> None:
    server = _Server(({}, CONTENT[:300]))
    transfer = _transfer(server, slept)
    assert _read(transfer, 0, 500) == CONTENT[:500]
    assert slept == [1.0]


def test_another_range_than_asked_for_is_not_taken(slept: list[float]) -> None:
    server = _Server(({"Content-Range": f"bytes 7-99/{SIZE}"}, b""))
    assert _read(_transfer(server, slept), 0, 100) == CONTENT[:100]
    assert len(server.urls) == 2


@pytest.mark.parametrize("shorter", [True, False])
def test_the_end_of_a_range_may_move_while_it_comes(slept: list[float], shorter: bool) -> None:
    end = [500]
    taken = b""
    transfer = _transfer(_Server(), slept)
    for data in transfer.range(0, lambda: end[0]):
        taken += data
        end[0] = 200 if shorter else 900
    assert taken == CONTENT[: end[0]]
    assert slept == []


def test_closing_ends_connections_and_whoever_waits(slept: list[float]) -> None:
    server = _Server()
    transfer = _transfer(server, slept, most=1)
    server.go.clear()
    with ThreadPoolExecutor(2) as pool:
        reading = pool.submit(_read, transfer, 0, 100)
        until(lambda: server.open)
        waiting = pool.submit(_read, transfer, 100, 200)
        transfer.close()
        with pytest.raises(TransferClosed):
            waiting.result(20)
        server.go.set()
        with pytest.raises(TransferClosed):
            reading.result(20)


def test_closing_ends_a_wait() -> None:
    server = _Server(429)
    server.headers_of_refusal = {"Retry-After": "100"}
    transfer = Transfer(REMOTE, server, Patience("check it"), 1)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(_read, transfer, 0, 100)
        until(lambda: transfer._gate.locked())
        transfer.close()
        with pytest.raises(TransferClosed):
            reading.result(20)


def test_a_lost_connection_beside_others_that_flow_holds_nobody_up() -> None:
    began, go = threading.Event(), threading.Event()

    def sleep(seconds: float) -> None:
        began.set()
        assert go.wait(20)

    server = _Server()
    transfer = Transfer(REMOTE, server, Patience("check it", sleep=sleep), 4)
    _read(transfer, 0, 100)
    transfer._received = 1 << 20  # others brought as much
    server.script = [({}, CONTENT[:50])]
    with ThreadPoolExecutor(1) as pool:
        cut = pool.submit(_read, transfer, 0, 100)
        assert began.wait(20)
        assert _read(transfer, 100, 200) == CONTENT[100:200]
        go.set()
        assert cut.result(20) == CONTENT[:100]
