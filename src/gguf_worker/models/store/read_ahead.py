"""Read-ahead: files of a network volume brought into the page cache before they are needed.

Such a volume takes milliseconds for each request, and a reader that goes from front to back, by
pages or by `read`, has one or two of them under way. Many requests at once are limited only by the
volume's bandwidth. For a local disk the kernel reads ahead well enough. Neither the reader nor the
files' content is known here.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

log = logging.getLogger("gguf_worker.models")

_THREADS = 16
_BLOCK = 1 << 20
_NEAR = frozenset(
    (
        *("bcachefs", "btrfs", "erofs", "ext2", "ext3", "ext4", "f2fs"),
        *("overlay", "ramfs", "squashfs", "tmpfs", "xfs", "zfs"),
    )
)
"""File systems of local disks and of memory; all others count as network file systems."""


class ReadAhead:
    """Reads those of `paths` that lie on network volumes, in that order, from now until `close`.

    `window`: bytes that it may be ahead of the reader, whose position comes by `reached`, since a
    machine may have less memory than the files are long. `far`: returns whether a file lies on a
    network volume.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        window: int,
        far: Callable[[Path], bool] | None = None,
        threads: int = _THREADS,
    ) -> None:
        try:
            self._paths = [path for path in paths if (far or is_far)(path)]
            self._total = sum(path.stat().st_size for path in self._paths)
        except OSError as exc:  # the reader that needs the file will report it
            log.debug("cannot read ahead: %s", exc)
            self._paths, self._total = [], 0
        self._window = window
        self._changed = threading.Condition()
        self._blocks = self._all_blocks()
        self._asked = 0
        self._limit = window
        self._ended = not self._paths
        if self._paths:
            log.info("reading %s ahead", ", ".join(path.name for path in self._paths))
        self._threads = [
            threading.Thread(target=self._read, name="read-ahead", daemon=True)
            for _ in range(threads if self._paths else 0)
        ]
        for thread in self._threads:
            thread.start()

    def reached(self, fraction: float) -> None:
        """Note how far the reader has come, as a fraction of all files together."""
        with self._changed:
            self._limit = int(fraction * self._total) + self._window
            self._changed.notify_all()

    def close(self) -> None:
        """Stop reading, after the blocks under way. Safe at any time."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def wait(self) -> None:
        """Wait until all files are read, or reading has stopped."""
        for thread in self._threads:
            thread.join()

    def _all_blocks(self) -> Iterator[tuple[Path, int]]:
        for path in self._paths:
            for at in range(0, path.stat().st_size, _BLOCK):
                yield path, at

    def _next(self) -> tuple[Path, int] | None:
        with self._changed:
            while self._asked >= self._limit and not self._ended:
                self._changed.wait()
            block = None if self._ended else next(self._blocks, None)
            self._asked += _BLOCK
            if block is None:
                self._ended = True
                self._changed.notify_all()
            return block

    def _read(self) -> None:
        buffer = bytearray(_BLOCK)
        opened: dict[Path, int] = {}
        try:
            while (block := self._next()) is not None:
                path, at = block
                if path not in opened:
                    opened[path] = os.open(path, os.O_RDONLY)
                os.preadv(opened[path], [buffer], at)
        except OSError as exc:  # the reader that needs the file will report it
            log.debug("cannot read ahead: %s", exc)
            self.close()
        finally:
            for descriptor in opened.values():
                os.close(descriptor)


def is_far(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> bool:
    """Return whether the file lies on a network volume, judged by the kind of its file system."""
    kind = _file_system(str(path.resolve()), mounts)
    return kind is not None and kind not in _NEAR


def _file_system(path: str, mounts: Path) -> str | None:
    """Return the kind of file system that a path lies on; None if `mounts` cannot be read."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    longest, kind = -1, None
    for line in lines:
        about, _, source = line.partition(" - ")
        fields = about.split(" ")
        point = _plain(fields[4]).rstrip("/") if len(fields) > 4 else path + "/"
        # Of several mounts at one point, the last is on top.
        if len(point) >= longest and (path == point or path.startswith(f"{point}/")):
            longest, kind = len(point), source.partition(" ")[0]
    return kind


def _plain(text: str) -> str:
    """Return a mount point with its octal escapes, of blanks and the like, decoded."""
    return text.encode("latin-1", "replace").decode("unicode_escape") if "\\" in text else text
