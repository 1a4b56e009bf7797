"""One file of the store: its path, the files beside it, and whether it is as published.

Nothing is fetched here. A file is read as a model by `gguf`.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from gguf_worker.errors import (
    NO_ROOM,
    ConfigError,
    DiskFull,
    DownloadFailed,
    ModelCorrupt,
    ModelUnavailable,
    as_start_errors,
    is_lasting,
    raise_passing,
)
from gguf_worker.models.gguf import is_gguf, parts_of, read_container
from gguf_worker.models.source import is_commit

log = logging.getLogger("gguf_worker.models")

Check = Literal["stamp", "full", "off"]
"""The check of a published file: by size and time of change, by every byte, or by size alone."""

COMPANIONS = ".beside"
"""The folder, within a commit's, of files that accompany models; no repository can have its name.
"""

NO_WRITING = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)
_BLOCK = 1 << 20
_SECOND = 10**9
"""Nanoseconds."""


@dataclass(frozen=True, slots=True)
class StoreEntry:
    """The place of one file of one commit, `folder`/`commit`/`file`, which need not exist."""

    folder: Path
    commit: str
    file: str

    @property
    def path(self) -> Path:
        """The file itself."""
        return self.folder / self.commit / self.file

    def sidecar(self, ending: str) -> Path:
        """Return the path with `ending` appended: of its manifest (.json), its part (.part)…"""
        return self.folder / self.commit / (self.file + ending)

    def parts(self) -> list[StoreEntry]:
        """Return the entries of all parts of a split model in order; only itself if not split."""
        return [replace(self, file=name) for name in parts_of(self.file)]

    def here(self) -> bool:
        """Return whether the file and its other parts are published, without checking them."""
        return all(part.sidecar(".json").is_file() and part.path.is_file() for part in self.parts())

    def published(self, check: Check, *, look_inside: bool = True) -> str | None:
        """Return the sha256 of the published file; None where it is missing or was damaged since.

        `look_inside`: parse its GGUF container too.
        """
        manifest = read_json(self.sidecar(".json"))
        if not manifest or not is_file(self.path):
            return None
        try:
            self._compare(manifest, check)
            if look_inside and is_gguf(self.file):
                read_container(self.path)
        except ModelCorrupt as exc:
            log.warning("the stored model is damaged: %s", exc)
            return None
        except FileNotFoundError:  # removed since
            return None
        except ModelUnavailable as exc:
            if isinstance(exc.__cause__, FileNotFoundError):
                return None
            raise
        return str(manifest.get("sha256"))

    def verify(self, progress: Callable[[int], None]) -> str:
        """Read every byte of the published file and return its sha256.

        `progress` gets the number of bytes read so far. Raises ModelCorrupt where it is not as it
        was published, ModelUnavailable where there is none or it cannot be read.
        """
        path = self.path
        with as_start_errors(f"reading {path}"):
            manifest = read_json(self.sidecar(".json"))
            if not manifest or not is_file(path):
                raise ModelUnavailable(f"{path} is not there as a whole. `models pull` fetches it.")
            _compare_size(path, path.stat().st_size, manifest)
            found = hash_of(path, progress)
        compare_hash(str(path), found, str(manifest.get("sha256")))
        read_container(path)
        return found

    def publish(self, manifest: dict[str, Any]) -> None:
        """Give the finished `.part` its public name, in one step."""
        part = self.sidecar(".part")
        # The manifest first: alone it means nothing, but a file without a manifest would be lost.
        write_json(self.sidecar(".json"), {**manifest, "changed_ns": part.stat().st_mtime_ns})
        part.replace(self.path)
        _sync_folder(part.parent)

    def twins(self, size: int, sha256: str) -> list[StoreEntry]:
        """Return the entries of this file in other commits with the same content, not checked."""
        try:
            commits = sorted(each for each in os.listdir(self.folder) if is_commit(each))
        except OSError as exc:
            raise_passing(exc)
            return []
        others = [replace(self, commit=each) for each in commits if each != self.commit]
        return [each for each in others if each._describes(size, sha256)]

    def _describes(self, size: int, sha256: str) -> bool:
        manifest = read_json(self.sidecar(".json"))
        return (manifest.get("size"), manifest.get("sha256")) == (size, sha256)

    def share(self, twin: StoreEntry, manifest: dict[str, Any]) -> None:
        """Publish the file of another commit as this one too, by a hard link.

        Raises OSError where that is not possible; nothing is published then.
        """
        found = twin.path.lstat()
        if self.path.exists():
            self.path.replace(self.sidecar(".bad"))
        write_json(self.sidecar(".json"), {**manifest, "changed_ns": found.st_mtime_ns})
        os.link(twin.path, self.path)
        _sync_folder(self.path.parent)

    def _compare(self, manifest: dict[str, Any], check: Check) -> None:
        """Raise ModelCorrupt where the file differs from its manifest."""
        path = self.path
        found = path.stat()
        _compare_size(path, found.st_size, manifest)
        changed = not _is_time(found.st_mtime_ns, manifest.get("changed_ns"))
        if check == "off" or (check == "stamp" and not changed):
            return
        log.info("checking every byte of %s%s", path, ", which was written to" if changed else "")
        compare_hash(str(path), hash_of(path), str(manifest.get("sha256")))
        if changed:  # copied or restored: with its new time, the next check is quick again
            try:
                write_json(self.sidecar(".json"), {**manifest, "changed_ns": found.st_mtime_ns})
            except OSError as exc:
                log.warning("could not note that %s is as it was: %s", path, exc.strerror)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError of writing near `path` into DiskFull, ConfigError or DownloadFailed."""
    try:
        yield
    except OSError as exc:
        if exc.errno in NO_ROOM:
            part = path.with_name(path.name + ".part")
            done = part.stat().st_size if part.exists() else 0
            raise DiskFull(
                f"the volume of {path.parent} had no room after {done:,} bytes of {path.name} "
                f"({exc.strerror}). Make room there, use a larger volume (VOLUME_PATH), or name a "
                "smaller quantisation."
            ) from exc
        if exc.errno in NO_WRITING:
            raise ConfigError(
                f"{path.parent} cannot be written ({exc.strerror}). VOLUME_PATH must be a "
                "directory that this process may write to.",
                param="VOLUME_PATH",
                permanent=is_lasting(exc),
            ) from exc
        raise DownloadFailed(f"writing {path} failed: {exc.strerror or exc}.") from exc


def hash_of(path: Path, progress: Callable[[int], None] = lambda done: None) -> str:
    """Return a file's sha256, in hexadecimal.

    `progress` gets the number of bytes read so far, after each block.
    """
    digest, done = hashlib.sha256(), 0
    with path.open("rb", buffering=0) as file:
        block = memoryview(bytearray(_BLOCK))
        while count := file.readinto(block):
            digest.update(block[:count])
            done += count
            progress(done)
    return digest.hexdigest()


def _compare_size(path: Path, found: int, manifest: dict[str, Any]) -> None:
    if found != manifest.get("size"):
        raise ModelCorrupt(f"{path} is no longer {manifest.get('size')} bytes long")


def _is_time(found: int, noted: object) -> bool:
    """Return whether a file's time of change is the noted one, or that one in whole seconds.

    Archives keep no more, and the layers of images are archives; some round, some cut.
    """
    if not isinstance(noted, int):
        return False
    return found == noted or (found % _SECOND == 0 and abs(found - noted) < _SECOND)


def compare_hash(what: str, found: str, wanted: str, *, permanent: bool = True) -> None:
    """Raise ModelCorrupt where `what` has another sha256 than the wanted one."""
    if found != wanted:
        raise ModelCorrupt(
            f"{what} has the sha256 {found}, and {wanted} was expected. If MODEL_SHA256 is set, "
            "check it; else the file was altered on its way.",
            permanent=permanent,
        )


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a small JSON file; empty where it is missing, or no such object.

    Raises OSError where it cannot be read now: what it says must not be taken for unsaid.
    """
    try:
        value = json.loads(path.read_bytes())
    except ValueError:
        return {}
    except OSError as exc:
        raise_passing(exc)
        return {}
    return value if isinstance(value, dict) else {}


def is_file(path: Path) -> bool:
    """Return whether there is such a file. Raises OSError where that cannot be told now."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError as exc:
        raise_passing(exc)
        return False


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Replace a small file in one step, safe against a crash at any moment."""
    # Not named by process id: containers that share a volume may have the same ids.
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    with draft.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _sync_folder(folder: Path) -> None:
    """Make a rename durable. Some network file systems cannot sync a folder, and need not."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as exc:
        log.debug("cannot sync %s: %s", folder, exc)
    finally:
        os.close(descriptor)
