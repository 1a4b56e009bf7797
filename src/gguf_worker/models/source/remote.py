"""A file on a server, one answer with its bytes, and how often and when it is asked again.

Each kind of server has a module of its own (`hub`, `web`); `transfer` puts the answers of one file
together. Disks and hashes are not known here.
"""

from __future__ import annotations

import logging
import math
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from gguf_worker.errors import DownloadFailed, StartError
from gguf_worker.models.source.rate_limit import asked_wait

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")
log = logging.getLogger("gguf_worker.models")

_DELAYS = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds before each further attempt."""
_TRIES = len(_DELAYS) + 1
_PASSING = (408, 416, 425, 429)
"""Statuses below 500 of an answer that may be another one later."""
_LONGEST_WAIT = 120.0
"""Seconds: the longest wait that a server may ask for and that is slept through here."""
_BRIEF_TRIES = 2
_BRIEF_WAIT = 2.0
_CONNECT_SECONDS = 10.0
"""The time for a connection to one of a host's addresses, before the next is tried."""
_DIRECT_SECONDS = 10.0
"""The time without a byte after which one of several connections counts as lost."""
_BRIEF_SECONDS = 5.0
_BRIEF_CONNECT_SECONDS = 2.0
WORTHWHILE = 1 << 20
"""Bytes that must come for the count of failures to begin anew."""

_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file of one commit, with its server's facts about the content.

    `repo`, `commit` and `file` are also its place in the store. `size`: bytes. `version`: the
    server's identifier of this content, where it has one (an ETag, or a date). `blob`: git's sha1
    of it, where the server has no other hash.
    """

    repo: str
    file: str
    commit: str
    size: int
    sha256: str | None
    url: str
    version: str | None = None
    blob: str | None = None

    def __str__(self) -> str:
        return f"{self.repo}/{self.file}"


@dataclass(frozen=True, slots=True)
class Answer:
    """A server's answer to a request, its body not yet read.

    `url`: the address that gave it, after all redirects. `headers` finds names in any case.
    `chunks` yields the body as it comes; a chunk is valid until the next one is asked for. `cut`
    ends the connection; the one method that another thread may call.
    """

    url: str
    status: int
    headers: Mapping[str, str]
    chunks: Callable[[], Iterator[bytes | memoryview]]
    cut: Callable[[], None]

    @property
    def is_refusal(self) -> bool:
        """The server doesn't want this request, and a later one like it no more than this."""
        return 400 <= self.status < 500 and self.status not in _PASSING


class Transient(Exception):
    """A failure that may not recur; `after`: seconds that the server asks to wait."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.after = after


class Refused(Transient):
    """A server's answer that it will not do this now."""


class Patience:
    """Retries after transient failures, with growing waits.

    `advice`: the things to check when all tries fail, as the end of a sentence.
    """

    def __init__(
        self,
        advice: str,
        *,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._advice = advice
        self._sleep = sleep
        self._jitter = jitter

    def persevere(self, what: str, attempt: Callable[[], T], *, brief: bool = False) -> T:
        """Call `attempt` until it succeeds, and return its result.

        Raises DownloadFailed after some Transient failures, or if the server asks for too long a
        wait. `brief`: a few seconds are too long.
        """
        failures = 0
        while True:
            try:
                return attempt()
            except Transient as exc:
                failures += 1
                self.wait(what, failures, exc, brief=brief)

    def wait(
        self,
        what: str,
        failures: int,
        cause: Transient,
        *,
        brief: bool = False,
        ended: threading.Event | None = None,
    ) -> None:
        """Sleep before the next attempt, or raise DownloadFailed if there should be none.

        `ended`: its being set ends the sleep.
        """
        tries, longest = (_BRIEF_TRIES, _BRIEF_WAIT) if brief else (_TRIES, _LONGEST_WAIT)
        if failures >= tries or cause.after > longest:
            later = math.ceil(cause.after)
            when = f"It asks to come again in {later} seconds" if later else "It may work later"
            how = f" {failures} times in a row, lastly" if failures > 1 else ""
            raise DownloadFailed(
                f"{what} failed{how} because {cause}. {when}; {self._advice}.",
                retry_after=cause.after or None,
            ) from cause
        delay = _DELAYS[failures - 1] * (0.5 + self._jitter() / 2)
        log.warning("%s: %s; trying again", what, cause)
        seconds = max(delay, cause.after)
        if self._sleep is time.sleep and ended is not None:  # the same, but it can be ended
            ended.wait(seconds)
        else:
            self._sleep(seconds)


def timeouts(seconds: float, *, brief: bool = False) -> httpx2.Timeout:
    """Return the time limits of a request; `seconds` without a byte: the connection is lost.

    `brief`: only seconds in any case.
    """
    import httpx2

    if brief:
        seconds = min(seconds, _BRIEF_SECONDS)
    connect = _BRIEF_CONNECT_SECONDS if brief else _CONNECT_SECONDS
    return httpx2.Timeout(seconds, connect=min(seconds, connect))


def direct_timeouts(seconds: float) -> tuple[float, float]:
    """Return the limits of one of several connections: until it is made, and without a byte."""
    return min(seconds, _CONNECT_SECONDS), min(seconds, _DIRECT_SECONDS)


def range_of(remote: RemoteFile, at: int, end: int) -> dict[str, str]:
    """Return the header that requests the bytes from `at` up to `end`; empty for the whole file."""
    if at == 0 and end == remote.size:
        return {}
    return {"Range": f"bytes={at}-" if end == remote.size else f"bytes={at}-{end - 1}"}


def answer_of(response: httpx2.Response) -> Answer:
    """Return the answer that a response of the HTTP client for all purposes is."""
    stream = response.extensions.get("network_stream")

    def cut() -> None:
        connection = stream.get_extra_info("socket") if stream is not None else None
        if connection is not None:
            hang_up(connection)

    return Answer(str(response.url), response.status_code, response.headers, response.iter_raw, cut)


def hang_up(connection: socket.socket) -> None:
    """End a connection that another thread may be reading from; that thread reads its end."""
    with suppress(OSError):  # not connected any more
        # Not the method of a TLS socket, which would have the reader go on without TLS.
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


def body_from(
    answer: Answer, remote: RemoteFile, at: int, end: Callable[[], int]
) -> Iterator[bytes | memoryview]:
    """Yield the bytes of an answer, from position `at` of the file up to `end`, which may move.

    A server may ignore the range and send the whole file. Raises DownloadFailed when the file is
    not as long as it should be.
    """
    unwanted = at - _start_of_body(answer, remote, at)
    for data in answer.chunks():
        wanted = data[unwanted:] if unwanted else data
        unwanted = max(unwanted - len(data), 0)
        if at + len(wanted) > remote.size:
            raise _wrong_length(remote, f"more than {remote.size:,}")
        while wanted and at < end():
            taken = wanted[: end() - at]
            wanted = wanted[len(taken) :]
            at += len(taken)
            yield taken
        if at >= end():  # a server that ignores the range would go on
            return


def _start_of_body(answer: Answer, remote: RemoteFile, at: int) -> int:
    """Return the position in the file at which the answer's body begins."""
    if (encoding := answer.headers.get("Content-Encoding", "identity")) not in ("", "identity"):
        raise DownloadFailed(
            f"the server sends {remote} compressed ({encoding}), though it was asked not to. A "
            "proxy may do that; check the network, and HF_ENDPOINT if it is set."
        )
    if answer.status == 200:
        length = answer.headers.get("Content-Length")
        if length is not None and length != str(remote.size):
            raise _wrong_length(remote, length)
        return 0
    given = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    if not given or int(given.group(1)) != at:
        raise Refused("the server sent another range than asked for")
    if int(given.group(2)) != remote.size:
        raise _wrong_length(remote, given.group(2))
    return at


def whole_length(answer: Answer) -> int | None:
    """Return the length of the whole file by an answer's headers; None where they lack it."""
    if given := _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", "")):
        return int(given.group(2))
    length = answer.headers.get("Content-Length", "")
    return int(length) if answer.status == 200 and length.isdecimal() else None


def _wrong_length(remote: RemoteFile, length: str) -> DownloadFailed:
    return DownloadFailed(
        f"the server has {length} bytes for {remote}, where {remote.size:,} were announced. It was "
        "changed meanwhile, or a mirror or proxy is stale; check HF_ENDPOINT if it is set."
    )


def trouble(status: int, headers: Mapping[str, str], what: str) -> StartError | Transient:
    """Return the error for a status that is neither success nor has an error of its own."""
    if status in _PASSING or status >= 500:
        return Refused(f"the server answered with status {status}", asked_wait(headers))
    return DownloadFailed(f"{what} failed: the server answered with status {status}.")


def reason(error: Exception) -> str:
    """Return a network error in words, without its URL, which may hold a signature."""
    text = str(error).partition("http")[0].strip()
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
