"""Downloads: one file at a time, by only one of all workers, resumed with what an earlier one left.

Servers are reached only through `source`; `entry` knows the files' names.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

from gguf_worker.errors import (
    NO_ROOM,
    DiskFull,
    DownloadFailed,
    ModelCorrupt,
    ModelUnavailable,
    ModelUnsupported,
)
from gguf_worker.models.gguf import header_of, is_adapter, is_gguf, join, parts_of, read_container
from gguf_worker.models.source import AnySource, RemoteFile
from gguf_worker.models.store.entry import (
    Check,
    StoreEntry,
    compare_hash,
    read_json,
    write_json,
    writing,
)
from gguf_worker.models.store.eviction import Eviction
from gguf_worker.models.store.lease import Lease, LeaseLost
from gguf_worker.models.store.part_file import ContentHashes, Progress, complete
from gguf_worker.models.store.part_plan import PartPlan, PieceSizes, Spans

log = logging.getLogger("gguf_worker.models")

_THERE = "there"
"""The key of a part's note under which are the spans of bytes that the part has.

Without it the part has all bytes up to its end.
"""


class Downloads:
    """Fetches files to their entries; the caller has made the folders.

    `progress` is called on the caller's thread, about five times a second.
    """

    def __init__(
        self,
        eviction: Eviction,
        progress: Callable[[Progress], None],
        now: Callable[[], float] = time.monotonic,
        sizes: PieceSizes | None = None,
    ) -> None:
        self._eviction = eviction
        self._progress = progress
        self._sizes = sizes or PieceSizes()
        self._now = now

    def fetch(
        self,
        source: AnySource,
        entry: StoreEntry,
        remote: RemoteFile,
        *,
        expected: str | None,
        check: Check,
    ) -> bool:
        """Download and publish the file; returns False if another worker did so meanwhile.

        `expected`: the sha256 that it must have; None: that of its server, if it gives one.
        `check`: the check of a file that is published by then. Raises ModelCorrupt,
        DownloadFailed, ModelUnavailable, DiskFull or ConfigError.
        """
        with writing(entry.path):
            while True:
                lease = self._lease(entry)
                try:
                    self._acquire(lease, entry, remote)
                    if _is_there(entry, check):
                        return False
                    _Download(self, source, entry, remote, expected, lease).run()
                    return True
                except LeaseLost as exc:  # this process was suspended for long
                    log.warning("%s; waiting for it", exc)
                finally:
                    lease.release()

    def shared(self, entry: StoreEntry, remote: RemoteFile, check: Check) -> bool:
        """Publish the file without a download if another commit has the same content.

        Returns whether it is published now. Such commits differ in other files, such as a README.
        """
        twins = entry.twins(remote.size, remote.sha256) if remote.sha256 else []
        return any(self._share(entry, remote, twin, check) for twin in twins)

    def _share(self, entry: StoreEntry, remote: RemoteFile, twin: StoreEntry, check: Check) -> bool:
        lease = self._lease(entry)
        try:
            lease.acquire()
            if _is_there(entry, check):
                return True
            if twin.published(check) is None:
                return False
            lease.check()
            entry.share(twin, _manifest(remote, remote.sha256))
            log.info("%s is the same file as in commit %s", entry.path, twin.commit)
            return _is_there(entry, check)
        except (OSError, LeaseLost) as exc:  # not every file system has hard links
            log.info("%s is fetched although %s is the same: %s", entry.path, twin.path, exc)
            return False
        finally:
            lease.release()

    def plan(self, missing: Sequence[tuple[StoreEntry, RemoteFile]]) -> None:
        """Make room for all missing parts of a model before the first is downloaded.

        They are announced, so that other workers count their bytes from now on, as long as this
        process uses the model. No announcement is withdrawn: without the part's lease, another
        worker may be using it by then. Raises DiskFull.
        """
        self.make_room(missing)  # before announcing: a model without room leaves nothing behind
        with writing(missing[0][0].path):
            for entry, remote in missing:
                if not entry.sidecar(".part.json").exists():
                    _announce(entry, remote)
        self.make_room(missing)

    def make_room(
        self, missing: Sequence[tuple[StoreEntry, RemoteFile]], *, refused: str | None = None
    ) -> None:
        """Make room for the missing bytes of one model, or raise DiskFull.

        `refused`: the disk's error text, if it has just refused to take a byte.
        """
        needed = sum(
            max(remote.size - _size(entry.sidecar(".part")), 0) for entry, remote in missing
        )
        entries = [entry for entry, _ in missing]
        self._eviction.make_room(entries, needed, str(missing[0][1]), refused=refused)

    def make_way(self, entry: StoreEntry, remote: RemoteFile, refused: OSError) -> None:
        """Make room after the disk refused a byte for lack of room; raises any other `refused`."""
        if refused.errno not in NO_ROOM:
            raise refused
        log.warning("the volume has no room for more of %s (%s)", remote.file, refused.strerror)
        self.make_room([(entry, remote)], refused=refused.strerror)

    def complete(
        self, source: AnySource, entry: StoreEntry, remote: RemoteFile, lease: Lease
    ) -> ContentHashes:
        """Complete the part and return its hashes; waiting workers are shown the progress."""

        def report(progress: Progress) -> None:
            lease.note(asdict(progress))
            lease.check()
            self._progress(progress)

        def note(there: Spans) -> None:
            lease.check()
            _note(entry, remote, there)

        plan = PartPlan(remote.size, _there(entry), self._sizes)
        if plan.connections > 1:  # from now on the part's length says nothing
            _note(entry, remote, plan.there)
        part = entry.sidecar(".part")
        with closing(source.transfer(remote, plan.connections)) as ranges:
            return complete(part, remote, plan, ranges, report, note, self._now)

    def _acquire(self, lease: Lease, entry: StoreEntry, remote: RemoteFile) -> None:
        try:
            lease.acquire()
        except OSError as exc:
            self.make_way(entry, remote, exc)
            lease.acquire()

    def _lease(self, entry: StoreEntry) -> Lease:
        """Return the lease for a file; while another worker holds it, its progress is reported."""
        announced = False

        def waiting(note: Mapping[str, object]) -> None:
            nonlocal announced
            if not announced:
                log.info("waiting for another worker that is fetching %s", entry.file)
                announced = True
            if (progress := _noted_progress(note)) is not None:
                self._progress(progress)

        return Lease(entry.sidecar(".lock"), waiting=waiting)


class _Download:
    """One file fetched under its lease. `expected`: the sha256 that was given."""

    def __init__(
        self,
        downloads: Downloads,
        source: AnySource,
        entry: StoreEntry,
        remote: RemoteFile,
        expected: str | None,
        lease: Lease,
    ) -> None:
        self._downloads = downloads
        self._source = source
        self._entry = entry
        self._remote = remote
        self._sha256 = expected or remote.sha256
        self._lease = lease
        self._part = entry.sidecar(".part")

    def run(self) -> None:
        """Fetch, check and publish.

        If the disk is full, room is made once and the download goes on; if that is not enough, the
        part is removed.
        """
        if self._entry.path.exists():
            self._entry.path.replace(self._entry.sidecar(".bad"))
        try:
            self._fetch_sound()
            return
        except OSError as exc:
            refused = exc
        try:
            self._downloads.make_way(self._entry, self._remote, refused)
            with writing(self._entry.path):
                self._fetch_sound()
        except DiskFull:
            self._lease.check()
            self._part.unlink(missing_ok=True)
            raise

    def _fetch_sound(self) -> None:
        """Fetch, check and publish. A wrong file is fetched once more."""
        try:
            self._attempt()
            return
        except ModelCorrupt as exc:
            log.warning("fetching it again, because %s", exc)
            first = exc.message
        try:
            self._attempt()
        except ModelCorrupt as exc:
            raise ModelCorrupt(
                f"downloaded twice, and damaged twice: {exc}",
                # Twice the same is the file of a server; else this machine or the way is bad.
                permanent=exc.permanent and exc.message == first,
            ) from exc

    def _attempt(self) -> None:
        remote = self._remote
        self._begin()
        try:
            hashes = self._downloads.complete(self._source, self._entry, remote, self._lease)
            found = hashes.sha256
            if not hashes.matches_blob():
                raise ModelCorrupt(
                    f"{remote} as downloaded is not what the repository has", permanent=False
                )
            if self._sha256 is not None:
                own = remote.sha256 is not None  # its server says so too: it was altered on the way
                compare_hash(f"{remote} as downloaded", found, self._sha256, permanent=not own)
            _check_structure(self._part, remote.file)
        except ModelCorrupt:
            self._lease.check()
            self._part.unlink(missing_ok=True)
            raise
        self._lease.check()
        self._entry.publish(_manifest(remote, found))
        self._entry.sidecar(".part.json").unlink(missing_ok=True)

    def _begin(self) -> None:
        """Keep an earlier part only if it is of this very file, and make room for the rest."""
        note = read_json(self._entry.sidecar(".part.json"))
        note.pop(_THERE, None)
        known = note == _identity(self._remote)
        if not known or not self._part.exists():
            self._part.unlink(missing_ok=True)
            _announce(self._entry, self._remote)
        if self._part.stat().st_size > self._remote.size:
            self._part.write_bytes(b"")
        self._downloads.make_room([(self._entry, self._remote)])


def _is_there(entry: StoreEntry, check: Check) -> bool:
    """Return whether the file is published; if so, remove the announcement of its download."""
    if entry.published(check) is None:
        return False
    # Announced by `plan` when another worker had just finished.
    entry.sidecar(".part").unlink(missing_ok=True)
    entry.sidecar(".part.json").unlink(missing_ok=True)
    return True


def _manifest(remote: RemoteFile, sha256: str | None) -> dict[str, object]:
    return {
        "repo": remote.repo,
        "file": remote.file,
        "commit": remote.commit,
        "size": remote.size,
        "sha256": sha256,
    }


def _identity(remote: RemoteFile) -> dict[str, object]:
    """Return the facts that identify the file of which a part was downloaded."""
    identity: dict[str, object] = {
        "commit": remote.commit,
        "size": remote.size,
        "sha256": remote.sha256,
    }
    return identity if remote.version is None else {**identity, "version": remote.version}


def _announce(entry: StoreEntry, remote: RemoteFile) -> None:
    """Announce the download of a file, so that other workers count its bytes.

    An existing part is kept.
    """
    write_json(entry.sidecar(".part.json"), _identity(remote))
    entry.sidecar(".part").open("ab").close()


def _note(entry: StoreEntry, remote: RemoteFile, there: Spans) -> None:
    """Note which bytes of a part are there.

    A version of this worker that knows no such notes takes the part for another file's, and begins
    anew.
    """
    write_json(entry.sidecar(".part.json"), {**_identity(remote), _THERE: there})


def _there(entry: StoreEntry) -> Spans:
    """Return which bytes of a part are there: those noted, else all up to its end.

    On a full disk it is shortened, perhaps below what was noted.
    """
    size = _size(entry.sidecar(".part"))
    noted = read_json(entry.sidecar(".part.json")).get(_THERE)
    if noted is None:
        return ((0, size),)
    return tuple((start, min(end, size)) for start, end in noted if start < size)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _noted_progress(note: Mapping[str, object]) -> Progress | None:
    """Return the progress that a lease's holder has noted; None where the note has none."""
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
    """Raise ModelCorrupt for a damaged file, DownloadFailed for one that is gone.

    An intact one that is not supported is kept, so that it is not fetched again.
    """
    if not is_gguf(name):
        return
    try:
        container = read_container(part)
    except ModelUnavailable as exc:  # it was there a moment ago
        raise DownloadFailed(f"the part of {name} is gone, or cannot be read: {exc}") from exc
    if len(parts_of(name)) > 1 or is_adapter(container):
        return
    try:
        header_of(join(container))
    except ModelUnsupported as exc:
        log.warning("downloaded a model that cannot be served: %s", exc)
