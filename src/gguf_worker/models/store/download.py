"""Downloads: one file at a time brought to its place, by one of all workers, on from where an earlier one got.

How servers are asked is the business of `hub` and `web`; what lies where, `shelf`'s.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from gguf_worker.errors import DiskFull, ModelCorrupt, ModelUnsupported
from gguf_worker.models.gguf import header_of, is_adapter, is_gguf, joined, parts_of, read_container
from gguf_worker.models.source import RemoteFile, Source
from gguf_worker.models.store.entry import (
    NO_ROOM,
    Check,
    StoreEntry,
    compare_hash,
    read_json,
    write_json,
    writing,
)
from gguf_worker.models.store.eviction import Room
from gguf_worker.models.store.lease import Lease, LeaseLost

log = logging.getLogger("gguf_worker.models")

_BLOCK = 1 << 20
_PROGRESS_EVERY = 0.2


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a download is; `bytes_per_second` since it began or was resumed."""

    file: str
    done_bytes: int
    total_bytes: int
    bytes_per_second: float


class Downloads:
    """Fetches files from `source`; `progress` is called on the caller's thread, about five times a second."""

    def __init__(
        self,
        source: Source,
        room: Room,
        progress: Callable[[Progress], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._room = room
        self._progress = progress
        self._now = now

    def fetch(
        self, place: StoreEntry, remote: RemoteFile, *, expected: str | None, check: Check
    ) -> bool:
        """Publish the file at its place; False: another worker has done it while this one waited.

        `expected`: the sha256 that it must have, beside the server's own word. Raises ModelCorrupt,
        DownloadFailed, ModelUnavailable, DiskFull or ConfigError.
        """
        with writing(place.beside()):
            while True:
                lease = self._lease(place)
                try:
                    self._acquire(lease, place, remote)
                    return self._fetch_alone(place, remote, expected, check, lease)
                except LeaseLost as exc:  # this process stood still for long
                    log.warning("%s; waiting for it", exc)
                finally:
                    lease.release()

    def _acquire(self, lease: Lease, place: StoreEntry, remote: RemoteFile) -> None:
        try:
            lease.acquire()
        except OSError as exc:
            self._make_way(place, remote, exc)
            lease.acquire()

    def _fetch_alone(
        self,
        place: StoreEntry,
        remote: RemoteFile,
        expected: str | None,
        check: Check,
        lease: Lease,
    ) -> bool:
        if place.published(check) is not None:
            # Announced by `plan` when another worker had just finished.
            place.beside(".part").unlink(missing_ok=True)
            place.beside(".part.json").unlink(missing_ok=True)
            return False
        if place.beside().exists():
            place.beside().replace(place.beside(".bad"))
        self._download(place, remote, expected, lease)
        return True

    def _lease(self, place: StoreEntry) -> Lease:
        """The right to fetch this file; what its holder has done meanwhile is our progress too."""
        told: list[bool] = []

        def waiting(note: Mapping[str, object]) -> None:
            if not told:
                log.info("waiting for another worker that is fetching %s", place.file)
                told.append(True)
            if (progress := _noted(note)) is not None:
                self._progress(progress)

        return Lease(place.beside(".lock"), waiting=waiting)

    def _download(
        self, place: StoreEntry, remote: RemoteFile, expected: str | None, lease: Lease
    ) -> None:
        """Fetch, check and publish. A disk found full gets room once, and the download goes on; if that was not
        enough, it keeps no part."""
        try:
            self._download_sound(place, remote, expected, lease)
            return
        except OSError as exc:
            refused = exc
        try:
            self._make_way(place, remote, refused)
            with writing(place.beside()):
                self._download_sound(place, remote, expected, lease)
        except DiskFull:
            lease.check()
            place.beside(".part").unlink(missing_ok=True)
            raise

    def _make_way(self, place: StoreEntry, remote: RemoteFile, refused: OSError) -> None:
        """Have models make way where the disk had no room for a byte; any other trouble is raised."""
        if refused.errno not in NO_ROOM:
            raise refused
        log.warning("the volume has no room for more of %s (%s)", remote.file, refused.strerror)
        self.make_room([(place, remote)], refused=refused.strerror)

    def _download_sound(
        self, place: StoreEntry, remote: RemoteFile, expected: str | None, lease: Lease
    ) -> None:
        """Fetch, check and publish. A wrong file is fetched once more."""
        wanted = expected or remote.sha256
        try:
            self._attempt(place, remote, wanted, lease)
            return
        except ModelCorrupt as exc:
            log.warning("fetching it again, because %s", exc)
        try:
            self._attempt(place, remote, wanted, lease)
        except ModelCorrupt as exc:
            raise ModelCorrupt(f"downloaded twice, and damaged twice: {exc}") from exc

    def _attempt(
        self, place: StoreEntry, remote: RemoteFile, wanted: str | None, lease: Lease
    ) -> None:
        part = place.beside(".part")
        self._begin(place, remote)
        try:
            digest = self._fill(part, remote, lease)
            found = digest.sha256.hexdigest()
            if digest.blob is not None and digest.blob.hexdigest() != remote.blob:
                raise ModelCorrupt(f"{remote} as downloaded is not what the repository has")
            if wanted is not None:
                compare_hash(f"{remote.repo}/{remote.file} as downloaded", found, wanted)
            _check_structure(part, remote.file)
        except ModelCorrupt:
            lease.check()
            part.unlink(missing_ok=True)
            raise
        manifest = {
            "repo": remote.repo,
            "file": remote.file,
            "commit": remote.commit,
            "size": remote.size,
            "sha256": found,
        }
        lease.check()
        place.publish(manifest)
        place.beside(".part.json").unlink(missing_ok=True)

    def _begin(self, place: StoreEntry, remote: RemoteFile) -> None:
        """Keep an earlier download only if it was of this very file, and see that there is room."""
        part = place.beside(".part")
        if read_json(place.beside(".part.json")) != _identity(remote) or not part.exists():
            part.unlink(missing_ok=True)
            _announce(place, remote)
        if part.stat().st_size > remote.size:
            part.write_bytes(b"")
        self.make_room([(place, remote)])

    def plan(self, missing: Sequence[tuple[StoreEntry, RemoteFile]]) -> None:
        """See that there is room for all parts that a model lacks, better now than at the last one.

        Whoever else is about to fetch counts them from now on, as long as this process uses the model. None of
        them is taken back: without the right to a part it may be another's by then. Raises DiskFull.
        """
        self.make_room(missing)  # so that a model for which there is none leaves nothing behind
        with writing(missing[0][0].beside()):
            for place, remote in missing:
                if not place.beside(".part.json").exists():
                    _announce(place, remote)
        self.make_room(missing)

    def make_room(
        self, missing: Sequence[tuple[StoreEntry, RemoteFile]], *, refused: str | None = None
    ) -> None:
        """See that what is missing of one model has room, or raise DiskFull.

        `refused`: how the disk has just refused a byte.
        """
        needed = sum(
            max(remote.size - _size(place.beside(".part")), 0) for place, remote in missing
        )
        name = f"{missing[0][1].repo}/{missing[0][1].file}"
        self._room.make([place for place, _ in missing], needed, name, refused=refused)

    def _fill(self, part: Path, remote: RemoteFile, lease: Lease) -> _Digest:
        """Bring the part to its full size, from wherever it is; the hashes of all of it."""
        digest = _Digest(remote)
        with part.open("r+b", buffering=0) as file:
            done = _hash_rest(file.fileno(), digest)
            file.seek(done)
            if done:
                log.info("resuming %s at %s of %s bytes", remote.file, done, remote.size)

            def tell(progress: Progress) -> None:
                lease.tell(asdict(progress))
                lease.check()
                self._progress(progress)

            meter = _Meter(remote, done, tell, self._now)
            try:
                for data in self._source.open_range(remote, done):
                    _write_all(file.fileno(), data)
                    digest.update(data)
                    meter.add(len(data))
                os.fsync(file.fileno())
            except OSError as exc:
                if exc.errno in NO_ROOM:
                    _shorten(file.fileno())
                raise
            meter.report()
        return digest


class _Digest:
    """The hashes of a file: sha256, and what git calls its content where that is what its server knows."""

    def __init__(self, remote: RemoteFile) -> None:
        self.sha256 = hashlib.sha256()
        self.blob = None
        if remote.blob is not None:
            self.blob = hashlib.sha1(b"blob %d\0" % remote.size, usedforsecurity=False)

    def update(self, data: bytes) -> None:
        self.sha256.update(data)
        if self.blob is not None:
            self.blob.update(data)


def _identity(remote: RemoteFile) -> dict[str, object]:
    """By which a download that was begun is known to be of this very file."""
    identity: dict[str, object] = {
        "commit": remote.commit,
        "size": remote.size,
        "sha256": remote.sha256,
    }
    return identity if remote.version is None else {**identity, "version": remote.version}


def _announce(place: StoreEntry, remote: RemoteFile) -> None:
    """Note what is about to be fetched, so that others count its bytes. A part that is there stays as it is."""
    write_json(place.beside(".part.json"), _identity(remote))
    place.beside(".part").open("ab").close()


class _Meter:
    """Tells the progress of one download, not too often."""

    def __init__(
        self,
        remote: RemoteFile,
        done: int,
        tell: Callable[[Progress], None],
        now: Callable[[], float],
    ) -> None:
        self._remote = remote
        self._start = self._done = done
        self._tell = tell
        self._now = now
        self._began = self._told = now()

    def add(self, count: int) -> None:
        self._done += count
        if self._now() - self._told >= _PROGRESS_EVERY:
            self.report()

    def report(self) -> None:
        self._told = self._now()
        elapsed = self._told - self._began
        speed = (self._done - self._start) / elapsed if elapsed > 0 else 0.0
        self._tell(Progress(self._remote.file, self._done, self._remote.size, speed))


def _write_all(descriptor: int, data: bytes) -> None:
    """Without a buffer, which would be written to a full disk once more, behind what was cut off."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _shorten(descriptor: int) -> None:
    """Give a full disk a little room back, for the small files by which models make way."""
    os.ftruncate(descriptor, max(os.fstat(descriptor).st_size - _BLOCK, 0))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _noted(note: Mapping[str, object]) -> Progress | None:
    """What the holder of a lease has noted of its download; None where that is not readable."""
    match note:
        case {
            "file": str(file),
            "done_bytes": int(done),
            "total_bytes": int(total),
            "bytes_per_second": float(speed),
        }:
            return Progress(file, done, total, speed)
    return None


def _check_structure(part: Path, name: str) -> None:
    """Refuse a damaged file. A sound one that is not supported is kept, not to be fetched again."""
    if not is_gguf(name):
        return
    container = read_container(part)
    if len(parts_of(name)) > 1 or is_adapter(container):
        return
    try:
        header_of(joined(container))
    except ModelUnsupported as exc:
        log.warning("downloaded a model that cannot be served: %s", exc)


def _hash_rest(descriptor: int, digest: _Digest) -> int:
    """Feed what a file holds to `digest`; how many bytes that was."""
    done = 0
    while block := os.pread(descriptor, _BLOCK, done):
        digest.update(block)
        done += len(block)
    return done
