"""The part of a download that is on the disk: completed by many ranges at once, and hashed.

Knows neither servers nor leases, nor what happens to the complete file.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gguf_worker.errors import NO_ROOM
from gguf_worker.models.source import Ranges, RemoteFile
from gguf_worker.models.store.part_plan import Claim, PartPlan, Spans

log = logging.getLogger("gguf_worker.models")

_BLOCK = 1 << 20
_PROGRESS_SECONDS = 0.2
_LOOK_SECONDS = 1.0
"""The time after which an idle connection looks whether another one has become slow."""
_NOTE_SECONDS = 2.0
_NOTE_SHARE = 10
"""Notes are so rare that about one of so many seconds goes to waiting for the disk: meanwhile some
file systems let nobody write."""


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

    def update(self, data: bytes | memoryview) -> None:
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
    plan: PartPlan,
    ranges: Ranges,
    report: Callable[[Progress], None],
    note: Callable[[Spans], None],
    now: Callable[[], float] = time.monotonic,
) -> ContentHashes:
    """Fetch what a part lacks, and return the hashes of the whole file.

    `report` is called on this thread about five times a second, and at the end. `note` is called
    with what is surely on the disk, every two seconds at most and when fetching fails, unless one
    connection writes all in order: then the part's length says it. Raises OSError, and what
    `ranges`, `report` and `note` do; on a full disk the part is shortened a little, to leave room
    for the small files that the removal of models needs.
    """
    if plan.done_bytes:
        log.info("resuming %s at %s of %s bytes", remote.file, plan.done_bytes, remote.size)
    with part.open("r+b", buffering=0) as file:
        fetching = _Fetching(file.fileno(), remote, plan, ranges, note, now)
        try:
            fetching.run(report)
            os.fsync(file.fileno())
        except OSError as exc:
            if exc.errno in NO_ROOM:
                _shorten(file.fileno())
            raise
    return fetching.hashes


class _Fetching:
    """The threads that complete one file: one for each connection, one that hashes, one that notes.

    The bytes go to their places in the file as they come, and the hash follows where no gap is
    left, from the page cache: what one connection brings is never kept for another.
    """

    def __init__(
        self,
        descriptor: int,
        remote: RemoteFile,
        plan: PartPlan,
        ranges: Ranges,
        note: Callable[[Spans], None],
        now: Callable[[], float],
    ) -> None:
        self.hashes = ContentHashes(remote)
        self._descriptor = descriptor
        self._size = remote.size
        self._plan = plan
        self._ranges = ranges
        self._note = note
        self._now = now
        self._meter = _DownloadMeter(remote, plan.done_bytes, now)
        self._lock = threading.Lock()
        self._grown = threading.Condition(self._lock)
        """Told when bytes without a gap have come."""
        self._claimable = threading.Condition(self._lock)
        """Told when another part may be claimed."""
        self._hashed = 0
        self._ended = threading.Event()
        self._failure: BaseException | None = None

    def run(self, report: Callable[[Progress], None]) -> None:
        """Fetch and hash everything. Raises the first error of any thread."""
        # The hash needs every byte, so its thread is the last to have work.
        hasher = self._thread("hash", self._hash)
        threads = [hasher, *self._fetchers()]
        try:
            for thread in threads:
                thread.start()
            while hasher.is_alive():
                hasher.join(_PROGRESS_SECONDS)
                if self._meter.due():
                    report(self._meter.progress(self._done()))
            if self._failure is not None:
                raise self._failure
        except BaseException:
            self._end(threads)
            with suppress(Exception):  # the last note will do
                self._note_now()
            raise
        self._end(threads)
        report(self._meter.progress(self._done()))

    def _fetchers(self) -> Iterator[threading.Thread]:
        if self._plan.complete:
            return
        for number in range(self._plan.connections):
            yield self._thread(str(number), self._fetch)
        if self._plan.connections > 1:
            yield self._thread("notes", self._keep_notes)

    def _thread(self, name: str, work: Callable[[], None]) -> threading.Thread:
        """Return a thread that keeps no process from ending."""
        return threading.Thread(
            target=self._guarded, args=(work,), name=f"download-{name}", daemon=True
        )

    def _done(self) -> int:
        with self._lock:
            return self._plan.done_bytes

    def _guarded(self, work: Callable[[], None]) -> None:
        """Do the work of a thread; its error ends all others."""
        try:
            work()
        except BaseException as exc:  # of any kind: it is raised again by `run`
            with self._lock:
                if not self._ended.is_set() and self._failure is None:
                    self._failure = exc
            self._stop()

    def _stop(self) -> None:
        self._ended.set()
        self._ranges.close()
        with self._lock:
            self._grown.notify_all()
            self._claimable.notify_all()

    def _end(self, threads: Sequence[threading.Thread]) -> None:
        self._stop()
        for thread in threads:
            if thread.ident is not None:
                thread.join()

    # The work of the threads

    def _fetch(self) -> None:
        while True:
            with self._ranges.slot():
                claim = self._next_claim()
                if claim is None:
                    return
                try:
                    self._fetch_claim(claim)
                finally:
                    with self._lock:
                        self._plan.release(claim)
                        self._claimable.notify_all()

    def _next_claim(self) -> Claim | None:
        """Wait for something to fetch, and return it; None when there will be nothing more."""
        with self._lock:
            while not self._ended.is_set() and not self._plan.complete:
                claim = self._plan.claim(self._hashed, self._now())
                if claim is not None:
                    return claim
                self._claimable.wait(_LOOK_SECONDS)
        return None

    def _fetch_claim(self, claim: Claim) -> None:
        for data in self._ranges.range(claim.at, lambda: claim.end):
            if self._ended.is_set():
                return
            _write_all(self._descriptor, data, claim.at)
            with self._lock:
                before = self._plan.prefix
                self._plan.add(claim, len(data))
                if self._ranges.whole:
                    self._plan.extend(claim)
                if self._plan.prefix > before:
                    self._grown.notify()
                    if self._plan.complete:
                        self._claimable.notify_all()

    def _hash(self) -> None:
        block = memoryview(bytearray(_BLOCK))
        while self._hashed < self._size:
            with self._lock:
                self._grown.wait_for(
                    lambda: self._plan.prefix > self._hashed or self._ended.is_set()
                )
                there = self._plan.prefix - self._hashed
            if self._ended.is_set():
                return
            count = os.preadv(self._descriptor, [block[:there]], self._hashed)
            if count == 0:
                raise OSError(errno.EIO, "the part has become shorter")
            self.hashes.update(block[:count])
            with self._lock:
                self._hashed += count
                self._claimable.notify_all()

    def _keep_notes(self) -> None:
        pause = _NOTE_SECONDS
        while not self._ended.wait(pause):
            began = self._now()
            self._note_now()
            pause = max(_NOTE_SECONDS, _NOTE_SHARE * (self._now() - began))

    def _note_now(self) -> None:
        """Note what is there, after it has reached the disk."""
        if self._plan.connections == 1:
            return
        with self._lock:
            there = self._plan.there
        os.fsync(self._descriptor)
        self._note(there)


class _DownloadMeter:
    """Tells the progress of one download, and when to report it: five times a second."""

    def __init__(self, remote: RemoteFile, done: int, now: Callable[[], float]) -> None:
        self._remote = remote
        self._start = done
        self._now = now
        self._began = self._reported = now()

    def due(self) -> bool:
        """Return whether it is time to report."""
        return self._now() - self._reported >= _PROGRESS_SECONDS

    def progress(self, done: int) -> Progress:
        """Return the progress after `done` bytes, to be reported now."""
        self._reported = self._now()
        elapsed = self._reported - self._began
        speed = (done - self._start) / elapsed if elapsed > 0 else 0.0
        return Progress(self._remote.file, done, self._remote.size, speed)


def _write_all(descriptor: int, data: bytes | memoryview, at: int) -> None:
    """Write all of `data` to its place, without a buffer.

    After a full disk, a buffer would be written again later, behind the shortened part.
    """
    rest = memoryview(data)
    while rest:
        count = os.pwrite(descriptor, rest, at)
        rest, at = rest[count:], at + count


def _shorten(descriptor: int) -> None:
    """Shorten the file by one block, so that a full disk has a little room again."""
    os.ftruncate(descriptor, max(os.fstat(descriptor).st_size - _BLOCK, 0))
