"""The part of a download that is on the disk: resumed where it ends, and hashed.

Knows neither servers nor leases, nor what happens to the complete file.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gguf_worker.errors import NO_ROOM
from gguf_worker.models.source import RemoteFile

log = logging.getLogger("gguf_worker.models")

_BLOCK = 1 << 20
_PROGRESS_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a download; `bytes_per_second` is the average since it began or resumed."""

    file: str
    done_bytes: int
    total_bytes: int
    bytes_per_second: float


class ContentHashes:
    """The hashes of a file: sha256, and git's own if it is the only one that the server has."""

    def __init__(self, remote: RemoteFile) -> None:
        self._remote = remote
        self._sha256 = hashlib.sha256()
        self._blob = None
        if remote.blob is not None:
            self._blob = hashlib.sha1(b"blob %d\0" % remote.size, usedforsecurity=False)

    def update(self, data: bytes) -> None:
        """Add the file's next bytes."""
        self._sha256.update(data)
        if self._blob is not None:
            self._blob.update(data)

    @property
    def sha256(self) -> str:
        """The sha256 of the bytes added so far, in hexadecimal."""
        return self._sha256.hexdigest()

    def matches_blob(self) -> bool:
        """Return whether git's hash is the one that the server has; True if it has none."""
        return self._blob is None or self._blob.hexdigest() == self._remote.blob


def complete(
    part: Path,
    remote: RemoteFile,
    rest: Callable[[int], Iterator[bytes]],
    report: Callable[[Progress], None],
    now: Callable[[], float] = time.monotonic,
) -> ContentHashes:
    """Download the rest of a part, and return the hashes of the whole file.

    `rest`: yields the file's bytes from a position on. `report` is called about five times a
    second, and at the end. Raises OSError, and what `rest` and `report` do; on a full disk the part
    is shortened a little, to leave room for the small files that the removal of models needs.
    """
    hashes = ContentHashes(remote)
    with part.open("r+b", buffering=0) as file:
        done = _hash_rest(file.fileno(), hashes)
        file.seek(done)
        if done:
            log.info("resuming %s at %s of %s bytes", remote.file, done, remote.size)
        meter = _DownloadMeter(remote, done, report, now)
        try:
            for data in rest(done):
                _write_all(file.fileno(), data)
                hashes.update(data)
                meter.add(len(data))
            os.fsync(file.fileno())
        except OSError as exc:
            if exc.errno in NO_ROOM:
                _shorten(file.fileno())
            raise
        meter.report()
    return hashes


class _DownloadMeter:
    """Reports the progress of one download, about five times a second."""

    def __init__(
        self,
        remote: RemoteFile,
        done: int,
        report: Callable[[Progress], None],
        now: Callable[[], float],
    ) -> None:
        self._remote = remote
        self._start = self._done = done
        self._report = report
        self._now = now
        self._began = self._reported = now()

    def add(self, count: int) -> None:
        self._done += count
        if self._now() - self._reported >= _PROGRESS_SECONDS:
            self.report()

    def report(self) -> None:
        self._reported = self._now()
        elapsed = self._reported - self._began
        speed = (self._done - self._start) / elapsed if elapsed > 0 else 0.0
        self._report(Progress(self._remote.file, self._done, self._remote.size, speed))


def _write_all(descriptor: int, data: bytes) -> None:
    """Write all of `data` without a buffer.

    After a full disk, a buffer would be written again later, behind the shortened part.
    """
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _shorten(descriptor: int) -> None:
    """Shorten the file by one block, so that a full disk has a little room again."""
    os.ftruncate(descriptor, max(os.fstat(descriptor).st_size - _BLOCK, 0))


def _hash_rest(descriptor: int, hashes: ContentHashes) -> int:
    """Add a file's bytes to `hashes` and return their number."""
    done = 0
    while block := os.pread(descriptor, _BLOCK, done):
        hashes.update(block)
        done += len(block)
    return done
