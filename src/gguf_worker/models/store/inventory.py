"""The inventory of a volume: models, leftovers of downloads and removals, and removing them.

Nothing is fetched here, and no file's content is read except manifests.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gguf_worker.errors import NO_ROOM, ModelInUse, raise_passing
from gguf_worker.models.gguf import parts_of
from gguf_worker.models.source import is_commit
from gguf_worker.models.store.entry import COMPANIONS, StoreEntry, read_json
from gguf_worker.models.store.lease import Lease
from gguf_worker.models.store.links import NamedFiles, freed_by
from gguf_worker.models.store.usage_marks import in_use, last_used

log = logging.getLogger("gguf_worker.models")

_LOCK = re.compile(r"(?P<file>.+)\.lock\.(?P<number>[0-9]+)", re.DOTALL)
LeftoverKind = Literal["partial", "damaged", "removed", "unlisted", "companion", "superseded"]
_KINDS: dict[str, LeftoverKind] = {".part": "partial", ".bad": "damaged", ".gone": "removed"}


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """One file of a model, as its manifest describes it.

    `size` is bytes, `file` its path in the repository.
    """

    file: str
    path: Path
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """A model of a volume: its first file, and all published files if it is split.

    `missing`: the files of a split model that are not published (yet). `used_at`: the time when it
    was last used, else fetched, in seconds since the epoch by the file server's clock.
    """

    repo: str
    commit: str
    file: str
    files: tuple[PublishedFile, ...]
    missing: tuple[str, ...]
    used_at: float
    in_use: bool
    entry: StoreEntry

    @property
    def size(self) -> int:
        """Bytes of all files; another commit may share them (see `links`)."""
        return sum(each.size for each in self.files)

    @property
    def paths(self) -> list[Path]:
        """The files that removing it removes, but for manifests."""
        return [each.path for each in self.files]

    def __str__(self) -> str:
        return f"{self.repo}/{self.file}@{self.commit[:12]}"


@dataclass(frozen=True, slots=True)
class Leftover:
    """A file that is no published model and may be removed.

    It is a partial download, a model found damaged, half removed or without a manifest, a companion
    of models that are no longer here, or a lock file of a lease that was taken over.
    """

    repo: str
    commit: str
    file: str
    path: Path
    size: int
    kind: LeftoverKind
    in_use: bool
    """The model that it belongs to is in use, or being fetched."""
    to_come: int
    """Bytes that a partial download still lacks, by its note; 0 if the file is published by now."""
    entry: StoreEntry

    @property
    def paths(self) -> list[Path]:
        """The file, as the models' `paths`."""
        return [self.path]

    def __str__(self) -> str:
        return f"{self.repo}/{self.file}@{self.commit[:12]} ({self.kind})"


class Inventory:
    """The content of the store `root`, which need not exist. Each call reads the disk again."""

    def __init__(self, root: Path) -> None:
        self._root = root / "models"

    def models(self) -> tuple[PublishedModel, ...]:
        """Return the models, sorted by name and commit."""
        found = [
            model for folder in _commits(self._root) for model in _models(folder, _files(folder))
        ]
        return tuple(sorted(found, key=lambda model: (model.repo, model.file, model.commit)))

    def leftovers(self) -> tuple[Leftover, ...]:
        """Return the leftovers, sorted by path."""
        found = [
            leftover
            for folder in _commits(self._root)
            for leftover in _leftovers(folder, _files(folder))
        ]
        return tuple(sorted(found, key=lambda leftover: leftover.path))

    def total_bytes(self) -> int:
        """Return the bytes of all files of the store, of any kind."""
        walk = os.walk(self._root, onerror=raise_passing)
        return NamedFiles(Path(folder, name) for folder, _, names in walk for name in names).taken

    def remove(self, model: PublishedModel) -> int:
        """Remove the model from the volume and return the bytes that this freed.

        Raises ModelInUse when a worker uses it, OSError when the volume cannot be written. If the
        process crashes meanwhile, each file is either still published, or a leftover, or gone.
        """
        first = model.entry.path
        if in_use(first):
            raise _busy(model)
        freed = 0
        for part in model.entry.parts():
            if part.sidecar(".json").exists() or part.path.exists():
                with _leased(part):
                    freed += _withdraw(part, model)
        freed += self._discard_companions(model.entry)
        log.info("removed %s: %s bytes", model, f"{freed:,}")
        return freed

    def _discard_companions(self, entry: StoreEntry) -> int:
        """Remove the companions of a commit's models after the last model was removed.

        Returns the bytes that this freed.
        """
        folder = entry.folder / entry.commit
        freed = 0
        for each in list(_companions(folder, _files(folder))):
            with suppress(ModelInUse):
                freed += self.discard(each)
        return freed

    def discard(self, leftover: Leftover) -> int:
        """Remove a leftover and return the bytes that this freed. Raises ModelInUse, or OSError."""
        entry = leftover.entry
        if leftover.kind == "superseded":  # needs no lease: later holders remove such files too
            leftover.path.unlink(missing_ok=True)
            return leftover.size
        if in_use(entry.parts()[0].path):
            raise ModelInUse(f"{leftover.path} belongs to a model that a worker uses or fetches.")
        with _leased(entry):
            freed = freed_by(leftover.path)
            leftover.path.unlink(missing_ok=True)
            if leftover.kind == "partial":
                entry.sidecar(".part.json").unlink(missing_ok=True)
            if leftover.kind == "companion":
                entry.sidecar(".json").unlink(missing_ok=True)
        return freed


@contextmanager
def _leased(entry: StoreEntry) -> Iterator[None]:
    """Hold the lease to write the file, unless the disk has no room for the lease's own file.

    Removal has to work on full disks, and is safe without the lease: usage marks are checked, and a
    file can be renamed only once.
    """
    lease = Lease(entry.sidecar(".lock"))
    try:
        lease.acquire()
    except OSError as exc:
        if exc.errno not in NO_ROOM:
            raise
    try:
        yield
    finally:
        lease.release()


def _withdraw(part: StoreEntry, model: PublishedModel) -> int:
    """Remove one file, unless a worker has begun to use the model.

    Returns the bytes that this freed. The file loses its public name first. A worker marks a model
    before it opens the file, and here the marks are read after the name is gone, so that at least
    one of the two notices the other.
    """
    public, gone = part.path, part.sidecar(".gone")
    freed = freed_by(public)
    if public.exists():
        public.replace(gone)
        if in_use(model.entry.path):
            gone.replace(public)
            raise _busy(model)
        gone.unlink()
    part.sidecar(".json").unlink(missing_ok=True)
    return freed


def _busy(model: PublishedModel) -> ModelInUse:
    return ModelInUse(f"{model} is in use by a worker. Stop it first, or wait for it to end.")


def _commits(root: Path) -> Iterator[Path]:
    """Yield the folders of commits.

    Links are not followed, so that nothing outside is ever removed.
    """
    for org in _folders(root):
        for repo in _folders(org):
            yield from (each for each in _folders(repo) if is_commit(each.name))


def _folders(path: Path) -> list[Path]:
    try:
        with os.scandir(path) as entries:
            return sorted(Path(each) for each in entries if each.is_dir(follow_symlinks=False))
    except OSError as exc:
        raise_passing(exc)
        return []


def _files(folder: Path) -> frozenset[str]:
    """Return the paths of a commit's files, with slashes."""
    return frozenset(
        Path(parent, name).relative_to(folder).as_posix()
        for parent, _, names in os.walk(folder, onerror=raise_passing)
        for name in names
    )


def _models(folder: Path, names: frozenset[str]) -> Iterator[PublishedModel]:
    published = {name: each for name in names if (each := _published(folder, name, names))}
    for first in sorted({parts_of(name)[0] for name in published}):
        entry = StoreEntry(folder.parent, folder.name, first)
        parts = parts_of(first)
        yield PublishedModel(
            repo=_repo(folder),
            commit=folder.name,
            file=first,
            files=tuple(published[part] for part in parts if part in published),
            missing=tuple(part for part in parts if part not in published),
            used_at=_used_at(entry),
            in_use=in_use(entry.path),
            entry=entry,
        )


def _published(folder: Path, name: str, names: frozenset[str]) -> PublishedFile | None:
    """Return the file of that name if it has a manifest, else None."""
    if not name.lower().endswith(".gguf") or f"{name}.json" not in names:
        return None
    manifest = read_json(folder / f"{name}.json")
    size, sha256 = manifest.get("size"), manifest.get("sha256")
    if not isinstance(size, int) or not isinstance(sha256, str):
        return None
    return PublishedFile(name, folder / name, size, sha256)


def _leftovers(folder: Path, names: frozenset[str]) -> Iterator[Leftover]:
    yield from _superseded(folder, names)
    yield from _companions(folder, names)
    for name in names:
        path = folder / name
        kind = _KINDS.get(path.suffix)
        if kind is None and name.lower().endswith(".gguf") and not _published(folder, name, names):
            kind = "unlisted"
        size = _size(path)
        if kind is None or size is None:
            continue
        file = name if kind == "unlisted" else name.removesuffix(path.suffix)
        entry = StoreEntry(folder.parent, folder.name, file)
        busy = in_use(entry.parts()[0].path)
        whole = read_json(path.with_name(f"{path.name}.json")).get("size")
        # Beside the published file, a part is a late announcement: no worker is fetching it.
        if kind != "partial" or file in names or not isinstance(whole, int):
            whole = 0
        to_come = max(whole - size, 0)
        yield Leftover(_repo(folder), folder.name, file, path, size, kind, busy, to_come, entry)


def _companions(folder: Path, names: frozenset[str]) -> Iterator[Leftover]:
    """Yield a commit's companions if none of its models is here or being downloaded."""
    companions = {name for name in names if name.startswith(f"{COMPANIONS}/")}
    if any(name.lower().endswith((".gguf", ".gguf.part")) for name in names - companions):
        return
    for name in companions:
        size = _size(folder / name)
        if f"{name}.json" in companions and size is not None:
            entry = StoreEntry(folder.parent, folder.name, name)
            busy = in_use(entry.path)
            yield Leftover(
                _repo(folder), folder.name, name, folder / name, size, "companion", busy, 0, entry
            )


def _superseded(folder: Path, names: frozenset[str]) -> Iterator[Leftover]:
    """Yield lock files whose number is not the highest: no process can hold them (see `lease`)."""
    locks = [(found["file"], int(found["number"]), name) for name, found in _matches(names)]
    highest: dict[str, int] = {}
    for file, number, _ in locks:
        highest[file] = max(number, highest.get(file, 0))
    for file, number, name in locks:
        path = folder / name
        if number < highest[file] and (size := _size(path)) is not None:
            entry = StoreEntry(folder.parent, folder.name, file)
            yield Leftover(
                _repo(folder), folder.name, file, path, size, "superseded", False, 0, entry
            )


def _matches(names: frozenset[str]) -> Iterator[tuple[str, re.Match[str]]]:
    for name in names:
        if found := _LOCK.fullmatch(name):
            yield name, found


def _used_at(entry: StoreEntry) -> float:
    return max(last_used(part.path) for part in entry.parts())


def _repo(commit: Path) -> str:
    return f"{commit.parent.parent.name}/{commit.parent.name}"


def _size(path: Path) -> int | None:
    try:
        return path.lstat().st_size
    except OSError:  # just gone
        return None
