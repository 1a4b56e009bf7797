"""Files of the store by their names: one file may have several, in several commits (hard links).

The bytes of such a file count once, and are free only when its last name is gone. What the files
are is not known here.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable
from contextlib import suppress
from pathlib import Path


class NamedFiles:
    """The files that `paths` name, as they are now; a path without a file counts nothing."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._found: dict[Hashable, os.stat_result] = {}
        self._names: dict[Hashable, set[Path]] = {}
        self._keys: dict[Path, Hashable] = {}
        for path in paths:
            with suppress(OSError):
                self._add(path, path.lstat())

    def _add(self, path: Path, found: os.stat_result) -> None:
        # Only files with several names are looked up by inode, which not every file system has.
        key = (found.st_dev, found.st_ino) if found.st_nlink > 1 else path
        self._found[key] = found
        self._names.setdefault(key, set()).add(path)
        self._keys[path] = key

    @property
    def taken(self) -> int:
        """The bytes of all files."""
        return sum(found.st_size for found in self._found.values())

    @property
    def freed(self) -> int:
        """The bytes that are free once all these names are removed."""
        return sum(found.st_size for key, found in self._found.items() if self._are_all(key))

    def frees(self, path: Path) -> bool:
        """Return whether the file of one of the names is gone once all names are removed."""
        return path in self._keys and self._are_all(self._keys[path])

    def _are_all(self, key: Hashable) -> bool:
        return len(self._names[key]) >= self._found[key].st_nlink


def freed_by(path: Path) -> int:
    """Return the bytes that removing this one name frees."""
    return NamedFiles([path]).freed
