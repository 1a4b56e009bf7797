"""Models on a volume: each of them whole, checked, and published in one step, or not there at all.

    <root>/models/<org>/<repo>/<commit>/<file>          a published model
                                       /<file>.json     its manifest: size, sha256, where it came from
                                       /<file>.part     a download under way, and
                                       /<file>.part.json  what it is a download of
                                       /<file>.lock.<n> who fetches it, or did last
                                       /<file>.bad      found damaged after it was published
                              /resolved.json            what was last meant by each reference

How the Hub is asked is `hub`'s business, and what makes a file a model is `gguf`'s.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gguf_worker.errors import ConfigError, DiskFull, DownloadFailed, ModelCorrupt, ModelUnsupported
from gguf_worker.models.cached import CachedModels
from gguf_worker.models.container import read_container
from gguf_worker.models.gguf import Header, read_header
from gguf_worker.models.hub import Hub, RemoteFile
from gguf_worker.models.lease import Lease, LeaseLost
from gguf_worker.models.reference import HubFile, HubQuant, LocalFile, Reference
from gguf_worker.models.shards import parts_of

if TYPE_CHECKING:
    from hashlib import _Hash

log = logging.getLogger("gguf_worker.models")

_COMMIT = re.compile(r"[0-9a-f]{40,64}")
_BLOCK = 1 << 20
_PROGRESS_EVERY = 0.2
# Room that must remain beside the model, for manifests and whatever else lives on the volume.
_SPARE_BYTES = 16 << 20
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_WRITING = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a download is; `bytes_per_second` since it began or was resumed."""

    file: str
    done_bytes: int
    total_bytes: int
    bytes_per_second: float


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model ready to be opened. `sha256` is None for a local file that none was given for."""

    path: Path
    header: Header
    sha256: str | None
    source: str
    """Where it came from: the path, or repository, file and commit."""
    fetched: bool
    """It was downloaded just now."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where one file of one commit belongs."""

    folder: Path
    commit: str
    file: str

    def beside(self, ending: str = "") -> Path:
        return self.folder / self.commit / (self.file + ending)

    def parts(self) -> list[_Place]:
        """The places of all parts of a split model, this one the first; itself where it is whole."""
        return [replace(self, file=name) for name in parts_of(self.file)]


class Store:
    """The models of one volume. Several processes may share it: each model is downloaded once.

    What one of the `caches` holds is used where it lies.

    `progress` is called on the caller's thread, about five times a second during a download.
    """

    def __init__(
        self,
        root: Path,
        hub: Hub,
        progress: Callable[[Progress], None],
        *,
        caches: Sequence[Path] = (),
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root = root / "models"
        self._cached = CachedModels(caches)
        self._hub = hub
        self._progress = progress
        self._now = now

    def ensure(
        self, reference: Reference, *, revision: str = "main", sha256: str | None = None
    ) -> StoredModel:
        """Have the model on this machine, checked, downloading it if need be.

        `sha256`, in hexadecimal, must then be the file's. Raises StartError: ModelUnavailable,
        ModelCorrupt, ModelUnsupported, DownloadFailed, DiskFull or ConfigError.
        """
        expected = sha256.lower() if sha256 else None
        if isinstance(reference, LocalFile):
            return self._local(reference.path, expected)
        cached = self._in_a_cache(reference, revision, expected)
        return cached or self._from_hub(reference, revision, expected)

    def _local(self, path: Path, expected: str | None) -> StoredModel:
        header = read_header(path)
        if expected is not None:
            with path.open("rb") as file:
                _compare(str(path), hashlib.file_digest(file, "sha256").hexdigest(), expected)
        return StoredModel(path, header, expected, str(path), fetched=False)

    def _in_a_cache(
        self, reference: HubQuant | HubFile, revision: str, expected: str | None
    ) -> StoredModel | None:
        """The model from a cache, if one has it whole. Only a hash that was asked for is computed."""
        cached = self._cached.find(reference, revision)
        if cached is None:
            return None
        try:
            model = self._local(cached.path, expected)
        except ModelCorrupt as exc:
            log.warning("the cached model is not used: %s", exc)
            return None
        source = f"{cached.repo}/{cached.file}@{cached.commit}"
        log.info("using %s from the cache, %s", source, cached.path)
        return replace(model, sha256=expected or cached.sha256, source=source)

    def _from_hub(
        self, reference: HubQuant | HubFile, revision: str, expected: str | None
    ) -> StoredModel:
        folder = self._root / reference.repo
        known = _recall(folder, reference, revision)
        # What a commit holds never changes, so there is nothing to ask the Hub.
        if _COMMIT.fullmatch(revision) and (model := self._published(reference, known, expected)):
            return model
        try:
            # With a copy at hand a Hub that is down is not worth half a minute of start-up.
            remote = self._hub.resolve(reference, revision, brief=known is not None)
        except DownloadFailed as exc:
            if model := self._published(reference, known, expected):
                log.warning("using %s as it was last seen, because %s", model.source, exc)
                return model
            raise
        place = _Place(folder, remote[0].commit, remote[0].file)
        _check_hashable(place, expected)
        if expected and remote[0].sha256:
            _compare(f"{reference.repo}/{place.file} on the Hub", remote[0].sha256, expected)
        model = self._published(reference, place, expected)
        if model is None:
            fetched = self._fetch_all(folder, remote, expected)
            model = self._published(reference, place, expected)
            if model is None:
                raise ModelCorrupt(f"{place.beside()} was damaged as soon as it was published.")
            model = replace(model, fetched=fetched)
        if place != known:
            _remember(place, reference, revision)
        return model

    def _published(
        self, reference: HubQuant | HubFile, place: _Place | None, expected: str | None
    ) -> StoredModel | None:
        """The published model with all its parts, or None where one is missing or was damaged since."""
        if place is None:
            return None
        # What is inside of them is read once, below.
        hashes = [self._published_file(part, look_inside=False) for part in place.parts()]
        if None in hashes:
            return None
        path, sha256 = place.beside(), str(hashes[0])
        try:
            header = read_header(path)
        except ModelCorrupt as exc:
            log.warning("the stored model is damaged: %s", exc)
            return None
        if expected is not None:
            _check_hashable(place, expected)
            _compare(str(path), sha256, expected)
        source = f"{reference.repo}/{place.file}@{place.commit}"
        return StoredModel(path, header, sha256, source, fetched=False)

    def _published_file(self, place: _Place, *, look_inside: bool = True) -> str | None:
        """The sha256 of a published file, or None where there is none or it was damaged since."""
        manifest, path = _read_json(place.beside(".json")), place.beside()
        if not manifest or not path.is_file():
            return None
        try:
            if path.stat().st_size != manifest.get("size"):
                raise ModelCorrupt(f"{path} is no longer {manifest.get('size')} bytes long")
            if look_inside:
                read_container(path)
        except ModelCorrupt as exc:
            log.warning("the stored model is damaged: %s", exc)
            return None
        return str(manifest.get("sha256"))

    def _fetch_all(self, folder: Path, remote: Sequence[RemoteFile], expected: str | None) -> bool:
        """Download what is missing, a part after the other; was there anything that no other worker did?"""
        places = [_Place(folder, each.commit, each.file) for each in remote]
        pairs = list(zip(places, remote, strict=True))
        missing = [pair for pair in pairs if self._published_file(pair[0]) is None]
        for place, _ in missing:
            self._check_inside(place)
            with _writing(place.beside()):
                place.beside().parent.mkdir(parents=True, exist_ok=True)
        if len(missing) > 1:  # better now than hours later, at the last part
            self._make_room(missing)
        fetched = [self._fetch(place, each, expected) for place, each in missing]
        return any(fetched)

    def _fetch(self, place: _Place, remote: RemoteFile, expected: str | None) -> bool:
        """Download, one of all workers at a time; False: another has done it while this one waited."""
        with _writing(place.beside()):
            while True:
                try:
                    with self._lease(place) as lease:
                        return self._fetch_alone(place, remote, expected, lease)
                except LeaseLost as exc:  # this process stood still for long
                    log.warning("%s; waiting for it", exc)

    def _fetch_alone(
        self, place: _Place, remote: RemoteFile, expected: str | None, lease: Lease
    ) -> bool:
        if self._published_file(place) is not None:
            return False
        if place.beside().exists():
            place.beside().replace(place.beside(".bad"))
        self._download(place, remote, expected, lease)
        return True

    def _lease(self, place: _Place) -> Lease:
        """The right to fetch this file; what its holder has done meanwhile is our progress too."""
        told: list[bool] = []

        def waiting(note: Mapping[str, object]) -> None:
            if not told:
                log.info("waiting for another worker that is fetching %s", place.file)
                told.append(True)
            if (progress := _noted(note)) is not None:
                self._progress(progress)

        return Lease(place.beside(".lock"), waiting=waiting)

    def _check_inside(self, place: _Place) -> None:
        root = self._root.resolve()
        if not place.beside().resolve().is_relative_to(root):
            raise ConfigError(f"{place.beside()} lies outside of {root}. Check for symbolic links.")

    def _download(
        self, place: _Place, remote: RemoteFile, expected: str | None, lease: Lease
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

    def _attempt(self, place: _Place, remote: RemoteFile, wanted: str | None, lease: Lease) -> None:
        part = place.beside(".part")
        self._begin(place, remote)
        try:
            found = self._fill(part, remote, lease)
            if wanted is not None:
                _compare(f"{remote.repo}/{remote.file} as downloaded", found, wanted)
            _check_structure(part, remote.file)
        except ModelCorrupt:
            part.unlink()
            raise
        manifest = {
            "repo": remote.repo,
            "file": remote.file,
            "commit": remote.commit,
            "size": remote.size,
            "sha256": found,
        }
        lease.check()
        # The manifest first: without its file it means nothing, the file without it would be lost.
        _write_json(place.beside(".json"), manifest)
        part.replace(place.beside())
        _sync_folder(part.parent)
        place.beside(".part.json").unlink(missing_ok=True)

    def _begin(self, place: _Place, remote: RemoteFile) -> None:
        """Keep an earlier download only if it was of this very file, and see that there is room."""
        part, note = place.beside(".part"), place.beside(".part.json")
        identity = {"commit": remote.commit, "size": remote.size, "sha256": remote.sha256}
        if _read_json(note) != identity or not part.exists():
            part.unlink(missing_ok=True)
            _write_json(note, identity)
            part.touch()
        if part.stat().st_size > remote.size:
            part.write_bytes(b"")
        self._make_room([(place, remote)])

    def _make_room(self, missing: Sequence[tuple[_Place, RemoteFile]]) -> None:
        """See that all that is missing has room, or raise DiskFull; damaged copies go first."""
        needed = _SPARE_BYTES
        for place, remote in missing:
            part = place.beside(".part")
            needed += remote.size - min(part.stat().st_size if part.exists() else 0, remote.size)
        folder = missing[0][0].beside().parent
        if shutil.disk_usage(folder).free < needed:
            for place, _ in missing:
                place.beside(".bad").unlink(missing_ok=True)
        free = shutil.disk_usage(folder).free
        if free < needed:
            name = f"{missing[0][1].repo}/{missing[0][1].file}"
            raise DiskFull(
                f"{name} needs {needed:,} bytes more on the volume of {self._root}, and {free:,} are "
                "free. Make room there, use a larger volume (VOLUME_PATH), or name a smaller "
                "quantisation."
            )

    def _fill(self, part: Path, remote: RemoteFile, lease: Lease) -> str:
        """Bring the part to its full size, from wherever it is; the sha256 of all of it."""
        digest = hashlib.sha256()
        with part.open("r+b") as file:
            done = _hash_rest(file.fileno(), digest)
            file.seek(done)
            if done:
                log.info("resuming %s at %s of %s bytes", remote.file, done, remote.size)

            def tell(progress: Progress) -> None:
                lease.tell(asdict(progress))
                lease.check()
                self._progress(progress)

            meter = _Meter(remote, done, tell, self._now)
            for data in self._hub.open_range(remote, done):
                file.write(data)
                digest.update(data)
                meter.add(len(data))
            file.flush()
            os.fsync(file.fileno())
            meter.report()
        return digest.hexdigest()


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


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """What the disk says about writing near `path`, as our errors; a full disk keeps no part."""
    try:
        yield
    except OSError as exc:
        if exc.errno in _NO_ROOM:
            part = path.with_name(path.name + ".part")
            done = part.stat().st_size if part.exists() else 0
            part.unlink(missing_ok=True)
            raise DiskFull(
                f"the volume of {path.parent} had no room after {done:,} bytes of {path.name} "
                f"({exc.strerror}). Make room there, use a larger volume (VOLUME_PATH), or name a "
                "smaller quantisation."
            ) from exc
        if exc.errno in _NO_WRITING:
            raise ConfigError(
                f"{path.parent} cannot be written ({exc.strerror}). VOLUME_PATH must be a directory "
                "that this process may write to.",
                param="VOLUME_PATH",
            ) from exc
        raise DownloadFailed(f"writing {path} failed: {exc.strerror or exc}.") from exc


def _check_hashable(place: _Place, expected: str | None) -> None:
    if expected is not None and len(place.parts()) > 1:
        raise ConfigError(
            f"{place.file} is the first part of a split model, and MODEL_SHA256 is of one file. Unset it: the "
            "parts are checked against the Hub's own hashes. MODEL_REVISION with a commit pins them.",
            param="MODEL_SHA256",
        )


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


def _compare(what: str, found: str, wanted: str) -> None:
    if found != wanted:
        raise ModelCorrupt(
            f"{what} has the sha256 {found}, and {wanted} was expected. If MODEL_SHA256 is set, check "
            "it; else the file was altered on its way."
        )


def _check_structure(part: Path, name: str) -> None:
    """Refuse a damaged file. A sound one that is not supported is kept, not to be fetched again."""
    try:
        (read_header if len(parts_of(name)) == 1 else read_container)(part)
    except ModelUnsupported as exc:
        log.warning("downloaded a model that cannot be served: %s", exc)


def _hash_rest(descriptor: int, digest: _Hash) -> int:
    """Feed what a file holds to `digest`; how many bytes that was."""
    done = 0
    while block := os.pread(descriptor, _BLOCK, done):
        digest.update(block)
        done += len(block)
    return done


def _recall(folder: Path, reference: HubQuant | HubFile, revision: str) -> _Place | None:
    """What a reference last meant, or what it must mean where it names a file of a commit."""
    if isinstance(reference, HubFile) and _COMMIT.fullmatch(revision):
        return _Place(folder, revision, reference.file)
    entry = _read_json(folder / "resolved.json").get(f"{reference}@{revision}")
    if not isinstance(entry, dict):
        return None
    commit, file = entry.get("commit"), entry.get("file")
    if not isinstance(commit, str) or not isinstance(file, str) or not _COMMIT.fullmatch(commit):
        return None
    return _Place(folder, commit, file)


def _remember(place: _Place, reference: HubQuant | HubFile, revision: str) -> None:
    """Note what a reference means, for a start without the Hub; a read-only volume may lack it."""
    entry = {"commit": place.commit, "file": place.file}
    try:
        path = place.folder / "resolved.json"
        _write_json(path, _read_json(path) | {f"{reference}@{revision}": entry})
    except OSError as exc:
        log.warning("could not note what %s means: %s", reference, exc)


def _read_json(path: Path) -> dict[str, object]:
    """An object from a small file of ours; empty where it is missing or unreadable."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _write_json(path: Path, value: dict[str, object]) -> None:
    """Replace a small file in one step, safe against a crash at any moment."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    with draft.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _sync_folder(folder: Path) -> None:
    """Make a rename last. Some network file systems cannot sync a folder, and need not."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as exc:
        log.debug("cannot sync %s: %s", folder, exc)
    finally:
        os.close(descriptor)
