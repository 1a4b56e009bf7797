"""Models that other programs put on this machine in the layout of the Hub's cache, as RunPod does.

    <root>/models--<org>--<name>/refs/<branch>             the commit that a branch was at
                                /snapshots/<commit>/<file> links to
                                /blobs/<sha256 of the content, for large files>

Such a folder may be incomplete, and may hold only some files of its repository. Nothing is written
here, and the Hub is not asked.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gguf_worker.errors import ConfigError, ModelUnavailable, raise_passing
from gguf_worker.models.gguf import parts_of
from gguf_worker.models.source.hub_reference import HubReference
from gguf_worker.models.source.reference import is_commit

log = logging.getLogger("gguf_worker.models")

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class CachedFile:
    """One file of a repository's snapshot; `sha256` is None where the cache does not have it."""

    path: Path
    repo: str
    file: str
    commit: str
    sha256: str | None


class CachedModels:
    """The caches below `roots`, searched in this order."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self._roots = roots

    def find(self, reference: HubReference, revision: str) -> CachedFile | None:
        """Return the file that is meant, if a cache has it; its content is not checked.

        Raises ConfigError when several files fit.
        """
        for root in self._roots:
            for snapshot in _snapshots(root, reference.repo, revision):
                if (file := _chosen(root, snapshot, reference, revision)) is not None:
                    return file
        return None

    def companion(self, repo: str, commit: str, name: str) -> Path | None:
        """Return another file of a commit, if a cache has it whole."""
        for root in self._roots:
            for snapshot in _snapshots(root, repo, commit):
                if _content(root, snapshot / name) is not None:
                    return snapshot / name
        return None


def _snapshots(root: Path, repo: str, revision: str) -> Iterator[Path]:
    """Yield the snapshots of `revision`, whether or not the repository's name has the same case."""
    wanted = f"models--{repo.replace('/', '--')}"
    for folder in sorted(_listed(root), key=lambda each: each.name != wanted):
        if folder.name.lower() == wanted.lower():
            commit = revision if is_commit(revision) else _commit_of(folder, revision)
            if commit is not None and (folder / "snapshots" / commit).is_dir():
                yield folder / "snapshots" / commit


def _commit_of(folder: Path, branch: str) -> str | None:
    """Return the commit of a branch; for `main` without a ref, that of the only snapshot."""
    try:
        commit = (folder / "refs" / branch).read_text(encoding="ascii").strip()
    except ValueError:
        commit = ""
    except OSError as exc:
        raise_passing(exc)
        commit = ""
    if is_commit(commit):
        return commit
    snapshots = [each.name for each in _listed(folder / "snapshots")]
    alone = len(snapshots) == 1 and is_commit(snapshots[0])
    return snapshots[0] if branch == "main" and alone else None


def _chosen(
    root: Path, snapshot: Path, reference: HubReference, revision: str
) -> CachedFile | None:
    names = [
        Path(folder, name).relative_to(snapshot).as_posix()
        for folder, _, files in os.walk(snapshot, onerror=raise_passing)
        for name in files
    ]
    try:
        file = reference.choose(names, revision)
    except ModelUnavailable:
        return None
    except ConfigError as exc:
        raise ConfigError(f"{exc.message} (These are in {snapshot}.)", param="MODEL") from exc
    contents = [_content(root, snapshot / part) for part in parts_of(file)]
    if contents[0] is None or None in contents:
        return None
    sha256 = contents[0].name if _SHA256.fullmatch(contents[0].name) else None
    return CachedFile(snapshot / file, reference.repo, file, snapshot.name, sha256)


def _content(root: Path, path: Path) -> Path | None:
    """Return the path of a file's content; None if it is missing, or outside of the cache."""
    try:
        content = path.resolve(strict=True)
    except (OSError, RuntimeError) as exc:
        if isinstance(exc, OSError):
            raise_passing(exc)
        log.info("%s is not there as a whole", path)
        return None
    if not content.is_relative_to(root.resolve()):
        log.warning("%s is not used: it leads out of %s", path, root)
        return None
    return content


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as exc:
        raise_passing(exc)
        return []
