"""A file of another machine, and its bytes over connections that fail.

The server, and how it is asked, is the business of its own module (`hub`, `web`). Disks and hashes
are not known here.
"""

from __future__ import annotations

import email.utils
import logging
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from gguf_worker.errors import DownloadFailed, StartError

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")
log = logging.getLogger("gguf_worker.models")

_DELAYS = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds before each further attempt."""
TRIES = len(_DELAYS) + 1
_LONGEST_WAIT = 120.0
_WORTHWHILE = 1 << 20
"""Bytes that a connection must bring for its end to count as the first failure again."""

_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file of one commit, with what its server says of its content.

    `repo`, `commit` and `file` are also its place in the store. `size`: bytes. `version`: the
    server's word for this content, where it has one (an ETag, or a date). `blob`: git's sha1 of it,
    where that is all that the server has.
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
    """A failure that may pass; `after`: seconds that the server asks to wait."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.after = after


class Patience:
    """Tries again what may pass, with longer and longer waits.

    `advice`: what to check where that fails, as the end of a sentence.
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

    def persevere(self, what: str, attempt: Callable[[], T], *, tries: int = TRIES) -> T:
        """Return what `attempt` does in the end.

        Raises DownloadFailed after `tries` Transient failures.
        """
        failures = 0
        while True:
            try:
                return attempt()
            except Transient as exc:
                failures += 1
                self._wait(what, failures, exc, tries)

    def rest_of(
        self,
        remote: RemoteFile,
        offset: int,
        end: int | None,
        body: Callable[[int, int], Iterator[bytes]],
    ) -> Iterator[bytes]:
        """Yield the file's bytes from `offset` to its end, or up to `end`.

        That may take several connections. `body`: yields what one of them brings, between two
        positions. Raises DownloadFailed when connections keep failing without bringing anything.
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
                self._wait(f"fetching {remote}", failures, exc, TRIES)

    def _wait(self, what: str, failures: int, cause: Transient, tries: int) -> None:
        """Sleep before the next attempt, or raise if there should be none."""
        if failures >= tries or cause.after > _LONGEST_WAIT:
            raise DownloadFailed(
                f"{what} failed {failures} times in a row, lastly because {cause}. It may work "
                f"later; {self._advice}.",
                retry_after=cause.after or None,
            ) from cause
        delay = _DELAYS[failures - 1] * (0.5 + self._jitter() / 2)
        log.warning("%s: %s; trying again", what, cause)
        self._sleep(max(delay, cause.after))


def range_of(remote: RemoteFile, at: int, end: int) -> dict[str, str]:
    """Return the header that asks for the bytes from `at` up to `end`; none for all of them."""
    if at == 0 and end == remote.size:
        return {}
    return {"Range": f"bytes={at}-" if end == remote.size else f"bytes={at}-{end - 1}"}


def body_from(response: httpx2.Response, remote: RemoteFile, at: int, end: int) -> Iterator[bytes]:
    """Yield the bytes of an answer, from `at` up to `end`.

    A server may ignore a range and send all of it. Raises DownloadFailed when the file is not as
    long as it should be.
    """
    unwanted = at - _start_of_body(response, remote, at)
    for data in response.iter_raw():
        wanted = data[unwanted:] if unwanted else data
        unwanted = max(unwanted - len(data), 0)
        at += len(wanted)
        if at > remote.size:
            raise _wrong_length(remote, f"more than {remote.size:,}")
        if at >= end:  # a server that ignores the range goes on for long
            yield wanted[: len(wanted) - (at - end)]
            return
        yield wanted


def _start_of_body(response: httpx2.Response, remote: RemoteFile, at: int) -> int:
    """Return the position in the file at which the answer begins."""
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
    """Return the length of the whole file that an answer is of; None where it does not say."""
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
    """Return what an answer means that is neither the file nor a refusal that has a name."""
    if status in (408, 416, 425, 429) or status >= 500:
        return Transient(f"the server answered with status {status}", _retry_after(headers))
    return DownloadFailed(f"{what} failed: the server answered with status {status}.")


def _retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds of a Retry-After header, or 0.

    It holds seconds or a date.
    """
    value = headers.get("Retry-After", "")
    if value.isdecimal():
        return float(value)
    try:
        # The server's own clock: this machine's may be wrong.
        until, now = (email.utils.parsedate_to_datetime(date) for date in (value, headers["Date"]))
        return max((until - now).total_seconds(), 0.0)
    except (ValueError, TypeError, KeyError):
        return 0.0


def reason(error: Exception) -> str:
    """Return an error of the network in words; its address may hold a signature, so no URL."""
    text = str(error).partition("http")[0].strip()
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
