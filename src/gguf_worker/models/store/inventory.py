"""What a volume holds: its published models, what was begun or put aside beside them, and how to be rid of it.

Nothing is fetched here, and no file's content is read but the manifests.
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

from gguf_worker.errors import ModelInUse
from gguf_worker.models.gguf import parts_of
from gguf_worker.models.store.entry import COMPANIONS, NO_ROOM, StoreEntry, read_json
from gguf_worker.models.store.lease import Lease
from gguf_worker.models.store.usage_marks import in_use, last_used

log = logging.getLogger("gguf_worker.models")

_COMMIT = re.compile(r"[0-9a-f]{40,64}")
_RIGHT = re.compile(r"(?P<file>.+)\.lock\.(?P<number>[0-9]+)", re.DOTALL)
Kind = Literal["partial", "damaged", "removed", "unlisted", "companion", "superseded"]
_KINDS: dict[str, Kind] = {".part": "partial", ".bad": "damaged", ".gone": "removed"}


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """One file of a model, as its manifest says. `size` is bytes, `file` its path in the repository."""

    file: str
    path: Path
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """A model of a volume: its first file, and all that are there of a split one.

    `missing`: the files of a split model that are not published (yet). `used_at`: when it was last used,
    else fetched, in seconds since the epoch by the file server's clock.
    """

    repo: str
    commit: str
    file: str
    files: tuple[PublishedFile, ...]
    missing: tuple[str, ...]
    used_at: float
    in_use: bool
    place: StoreEntry

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(each.size for each in self.files)

    def __str__(self) -> str:
        return f"{self.repo}/{self.file}@{self.commit[:12]}"


@dataclass(frozen=True, slots=True)
class Leftover:
    """A file that is no model: a download begun, a model found damaged, half removed, or without a manifest,
    what goes with a model that is not here any more, or a right to fetch that has been taken over."""

    repo: str
    commit: str
    file: str
    path: Path
    size: int
    kind: Kind
    in_use: bool
    """The model that it belongs to is in use, or being fetched."""
    to_come: int
    """Bytes that a download lacks yet, as its note says; else 0, and where the file is there."""
    place: StoreEntry

    def __str__(self) -> str:
        return f"{self.repo}/{self.file}@{self.commit[:12]} ({self.kind})"


class Inventory:
    """What lies in the store `root`, which need not exist. Each call looks anew."""

    def __init__(self, root: Path) -> None:
        self._root = root / "models"

    def models(self) -> tuple[PublishedModel, ...]:
        """The models, sorted by name and commit."""
        found = [
            model for folder in _commits(self._root) for model in _models(folder, _files(folder))
        ]
        return tuple(sorted(found, key=lambda model: (model.repo, model.file, model.commit)))

    def leftovers(self) -> tuple[Leftover, ...]:
        """Downloads that were begun, and what was put aside, sorted by path."""
        found = [
            leftover
            for folder in _commits(self._root)
            for leftover in _leftovers(folder, _files(folder))
        ]
        return tuple(sorted(found, key=lambda leftover: leftover.path))

    def total_bytes(self) -> int:
        """Bytes of all files of the store, whatever they are."""
        sizes = (
            _size(Path(folder, name)) for folder, _, names in os.walk(self._root) for name in names
        )
        return sum(size for size in sizes if size is not None)

    def remove(self, model: PublishedModel) -> int:
        """Remove the model from the volume; the bytes that this freed.

        Raises ModelInUse when a worker uses it, OSError when the volume cannot be written. What is left of
        it after a crash at any moment is either published as it was, or a leftover.
        """
        first = model.place.beside()
        if in_use(first):
            raise _busy(model)
        freed = 0
        for part in model.place.parts():
            if part.beside(".json").exists() or part.beside().exists():
                with _right(part):
                    freed += _withdraw(part, model)
        freed += self._discard_companions(model.place)
        log.info("removed %s: %s bytes", model, f"{freed:,}")
        return freed

    def _discard_companions(self, place: StoreEntry) -> int:
        """Remove what went with the models of a commit, if the last is gone; the bytes that this freed."""
        folder = place.folder / place.commit
        freed = 0
        for each in list(_companions(folder, _files(folder))):
            with suppress(ModelInUse):
                freed += self.discard(each)
        return freed

    def discard(self, leftover: Leftover) -> int:
        """Remove a leftover; the bytes that this freed. Raises ModelInUse, or OSError."""
        place = leftover.place
        if leftover.kind == "superseded":  # its successors take such files away themselves
            leftover.path.unlink(missing_ok=True)
            return leftover.size
        if in_use(place.parts()[0].beside()):
            raise ModelInUse(f"{leftover.path} belongs to a model that a worker uses or fetches.")
        with _right(place):
            size = _size(leftover.path) or 0
            leftover.path.unlink(missing_ok=True)
            if leftover.kind == "partial":
                place.beside(".part.json").unlink(missing_ok=True)
            if leftover.kind == "companion":
                place.beside(".json").unlink(missing_ok=True)
        return size


@contextmanager
def _right(place: StoreEntry) -> Iterator[None]:
    """The right to write the file, as far as the disk has room for a word of it.

    A full one is what removal is for, and that is safe without: marks are looked for, and a name goes once.
    """
    lease = Lease(place.beside(".lock"))
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
    """Take one file away, unless somebody has begun to use the model.

    The file loses its public name first. Whoever uses a model marks it before looking for it, and this
    looks for marks after the name is gone: so one of the two sees the other.
    """
    public, gone = part.beside(), part.beside(".gone")
    size = _size(public) or 0
    if size or public.exists():
        public.replace(gone)
        if in_use(model.place.beside()):
            gone.replace(public)
            raise _busy(model)
        gone.unlink()
    part.beside(".json").unlink(missing_ok=True)
    return size


def _busy(model: PublishedModel) -> ModelInUse:
    return ModelInUse(f"{model} is in use by a worker. Stop it first, or wait for it to end.")


def _commits(root: Path) -> Iterator[Path]:
    """The folders of commits; links are not followed, so that nothing outside is ever removed."""
    for org in _folders(root):
        for repo in _folders(org):
            yield from (each for each in _folders(repo) if _COMMIT.fullmatch(each.name))


def _folders(path: Path) -> list[Path]:
    try:
        with os.scandir(path) as entries:
            return sorted(Path(each) for each in entries if each.is_dir(follow_symlinks=False))
    except OSError:
        return []


def _files(folder: Path) -> frozenset[str]:
    """The paths of a commit's files, by slashes."""
    return frozenset(
        Path(parent, name).relative_to(folder).as_posix()
        for parent, _, names in os.walk(folder)
        for name in names
    )


def _models(folder: Path, names: frozenset[str]) -> Iterator[PublishedModel]:
    published = {name: each for name in names if (each := _published(folder, name, names))}
    for first in sorted({parts_of(name)[0] for name in published}):
        place = StoreEntry(folder.parent, folder.name, first)
        parts = parts_of(first)
        yield PublishedModel(
            repo=_repo(folder),
            commit=folder.name,
            file=first,
            files=tuple(published[part] for part in parts if part in published),
            missing=tuple(part for part in parts if part not in published),
            used_at=_used_at(place),
            in_use=in_use(place.beside()),
            place=place,
        )


def _published(folder: Path, name: str, names: frozenset[str]) -> PublishedFile | None:
    """The file of that name, where a manifest stands beside it."""
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
        place = StoreEntry(folder.parent, folder.name, file)
        busy = in_use(place.parts()[0].beside())
        whole = read_json(path.with_name(f"{path.name}.json")).get("size")
        # Beside the file itself it is an announcement that came too late: nobody fetches it.
        if kind != "partial" or file in names or not isinstance(whole, int):
            whole = 0
        to_come = max(whole - size, 0)
        yield Leftover(_repo(folder), folder.name, file, path, size, kind, busy, to_come, place)


def _companions(folder: Path, names: frozenset[str]) -> Iterator[Leftover]:
    """What goes with models of which none is here any more, or on its way."""
    beside = {name for name in names if name.startswith(f"{COMPANIONS}/")}
    if any(name.lower().endswith((".gguf", ".gguf.part")) for name in names - beside):
        return
    for name in beside:
        size = _size(folder / name)
        if f"{name}.json" in beside and size is not None:
            place = StoreEntry(folder.parent, folder.name, name)
            busy = in_use(place.beside())
            yield Leftover(
                _repo(folder), folder.name, name, folder / name, size, "companion", busy, 0, place
            )


def _superseded(folder: Path, names: frozenset[str]) -> Iterator[Leftover]:
    """Rights whose number is not their file's highest: nobody can hold them any more (see `lease`)."""
    rights = [(found["file"], int(found["number"]), name) for name, found in _matches(names)]
    highest: dict[str, int] = {}
    for file, number, _ in rights:
        highest[file] = max(number, highest.get(file, 0))
    for file, number, name in rights:
        path = folder / name
        if number < highest[file] and (size := _size(path)) is not None:
            place = StoreEntry(folder.parent, folder.name, file)
            yield Leftover(
                _repo(folder), folder.name, file, path, size, "superseded", False, 0, place
            )


def _matches(names: frozenset[str]) -> Iterator[tuple[str, re.Match[str]]]:
    for name in names:
        if found := _RIGHT.fullmatch(name):
            yield name, found


def _used_at(place: StoreEntry) -> float:
    return max(last_used(part.beside()) for part in place.parts())


def _repo(commit: Path) -> str:
    return f"{commit.parent.parent.name}/{commit.parent.name}"


def _size(path: Path) -> int | None:
    try:
        return path.lstat().st_size
    except OSError:  # just gone
        return None
