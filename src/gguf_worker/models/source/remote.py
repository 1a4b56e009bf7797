"""A file on a server, and its bytes over connections that may fail.

Each kind of server has a module of its own (`hub`, `web`). Disks and hashes are not known here.
"""

from __future__ import annotations

import logging
import math
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
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
_LONGEST_WAIT = 120.0
"""Seconds: the longest wait that a server may ask for and that is slept through here."""
_BRIEF_TRIES = 2
_BRIEF_WAIT = 2.0
_CONNECT_SECONDS = 10.0
"""The time for a connection to one of a host's addresses, before the next is tried."""
_BRIEF_SECONDS = 5.0
_BRIEF_CONNECT_SECONDS = 2.0
_WORTHWHILE = 1 << 20
"""Bytes that a connection must bring for the count of failures to begin anew."""

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


class Transient(Exception):
    """A failure that may not recur; `after`: seconds that the server asks to wait."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.after = after


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
                self._wait(what, failures, exc, brief)

    def rest_of(
        self,
        remote: RemoteFile,
        offset: int,
        end: int | None,
        body: Callable[[int, int], Iterator[bytes]],
    ) -> Iterator[bytes]:
        """Yield the file's bytes from `offset` to its end, or up to `end`.

        That may take several connections. `body`: yields the bytes of one connection, between two
        positions. Raises DownloadFailed when connections keep failing without progress.
        """
        at = offset
        failures = 0
        end = remote.size if end is None else min(end, remote.size)
        while at < end:
            begun = at
            try:
                for data in body(at, end):
                    at += len(data)
                    yield data
                if at < end:
                    raise Transient("the connection ended early")
            except Transient as exc:
                failures = 1 if at - begun >= _WORTHWHILE else failures + 1
                self._wait(f"fetching {remote}", failures, exc)

    def _wait(self, what: str, failures: int, cause: Transient, brief: bool = False) -> None:
        """Sleep before the next attempt, or raise DownloadFailed if there should be none."""
        tries, longest = (_BRIEF_TRIES, _BRIEF_WAIT) if brief else (_TRIES, _LONGEST_WAIT)
        if failures >= tries or cause.after > longest:
            seconds = math.ceil(cause.after)
            when = f"It asks to come again in {seconds} seconds" if seconds else "It may work later"
            raise DownloadFailed(
                f"{what} failed {failures} times in a row, lastly because {cause}. {when}; "
                f"{self._advice}.",
                retry_after=cause.after or None,
            ) from cause
        delay = _DELAYS[failures - 1] * (0.5 + self._jitter() / 2)
        log.warning("%s: %s; trying again", what, cause)
        self._sleep(max(delay, cause.after))


def timeouts(seconds: float, *, brief: bool = False) -> httpx2.Timeout:
    """Return the time limits of a request; `seconds` without a byte: the connection is lost.

    `brief`: only seconds in any case.
    """
    import httpx2

    if brief:
        seconds = min(seconds, _BRIEF_SECONDS)
    connect = _BRIEF_CONNECT_SECONDS if brief else _CONNECT_SECONDS
    return httpx2.Timeout(seconds, connect=min(seconds, connect))


def range_of(remote: RemoteFile, at: int, end: int) -> dict[str, str]:
    """Return the header that requests the bytes from `at` up to `end`; empty for the whole file."""
    if at == 0 and end == remote.size:
        return {}
    return {"Range": f"bytes={at}-" if end == remote.size else f"bytes={at}-{end - 1}"}


def body_from(response: httpx2.Response, remote: RemoteFile, at: int, end: int) -> Iterator[bytes]:
    """Yield the bytes of a response, from position `at` of the file up to `end`.

    A server may ignore the range and send the whole file. Raises DownloadFailed when the file is
    not as long as it should be.
    """
    unwanted = at - _start_of_body(response, remote, at)
    for data in response.iter_raw():
        wanted = data[unwanted:] if unwanted else data
        unwanted = max(unwanted - len(data), 0)
        at += len(wanted)
        if at > remote.size:
            raise _wrong_length(remote, f"more than {remote.size:,}")
        if at >= end:  # a server that ignores the range would go on
            yield wanted[: len(wanted) - (at - end)]
            return
        yield wanted


def _start_of_body(response: httpx2.Response, remote: RemoteFile, at: int) -> int:
    """Return the position in the file at which the response's body begins."""
    if response.status_code == 200:
        length = response.headers.get("Content-Length")
        if length is not None and length != str(remote.size):
            raise _wrong_length(remote, length)
        return 0
    given = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if not given or int(given.group(1)) != at:
        raise Transient("the server sent another range than asked for")
    if int(given.group(2)) != remote.size:
        raise _wrong_length(remote, given.group(2))
    return at


def whole_length(response: httpx2.Response) -> int | None:
    """Return the length of the whole file by a response's headers; None where they lack it."""
    if given := _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "")):
        return int(given.group(2))
    length = response.headers.get("Content-Length", "")
    return int(length) if response.status_code == 200 and length.isdecimal() else None


def _wrong_length(remote: RemoteFile, length: str) -> DownloadFailed:
    return DownloadFailed(
        f"the server has {length} bytes for {remote}, where {remote.size:,} were announced. It was "
        "changed meanwhile, or a mirror or proxy is stale; check HF_ENDPOINT if it is set."
    )


def trouble(status: int, headers: Mapping[str, str], what: str) -> StartError | Transient:
    """Return the error for a status that is neither success nor has an error of its own."""
    if status in (408, 416, 425, 429) or status >= 500:
        return Transient(f"the server answered with status {status}", asked_wait(headers))
    return DownloadFailed(f"{what} failed: the server answered with status {status}.")


def reason(error: Exception) -> str:
    """Return a network error in words, without its URL, which may hold a signature."""
    text = str(error).partition("http")[0].strip()
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
