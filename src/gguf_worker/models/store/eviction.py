"""Eviction: the removal of models to make room for a download under the volume's limit.

The least recently used are removed first, never one that a worker uses, and none at all where no
limit was set. Knows nothing of sources or downloads.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from gguf_worker.errors import DiskFull, ModelInUse
from gguf_worker.models.store.entry import StoreEntry
from gguf_worker.models.store.inventory import Inventory, Leftover, PublishedModel
from gguf_worker.models.store.links import NamedFiles

log = logging.getLogger("gguf_worker.models")

_SPARE_BYTES = 16 << 20
"""Bytes that must stay free beside the model, for manifests and other files on the volume."""
_MOST_NAMED = 5

_Candidate = PublishedModel | Leftover


class Eviction:
    """Makes room in the store `root`.

    `limit`: bytes that the whole store may take; None: as many as the disk has.
    """

    def __init__(self, root: Path, limit: int | None) -> None:
        self._inventory = Inventory(root)
        self._root = root
        self._limit = limit

    def make_room(
        self, entries: Sequence[StoreEntry], needed: int, what: str, *, refused: str | None = None
    ) -> None:
        """Make room for `needed` more bytes of one model's `entries`, or raise DiskFull.

        Nothing is removed if removing all candidates would not be enough. `refused`: the disk's
        error text, if it has just refused to take a byte, whatever free space it reports.
        """
        keep = entries[0]
        unusable = self._free() if refused else 0
        if self._missing(keep, needed, unusable) <= 0:
            return
        for entry in entries:
            entry.sidecar(".bad").unlink(missing_ok=True)
        candidates = list(self._candidates(keep))
        missing = self._missing(keep, needed, unusable)
        if missing <= 0:
            return
        if self._limit is not None and _files_of(candidates).freed >= missing:
            for candidate in candidates:
                missing -= self._removed(candidate)
                if missing <= 0:
                    return
        # Other workers may have removed files meanwhile.
        if self._missing(keep, needed, unusable) > 0:
            raise self._refusal(what, needed, refused, list(self._candidates(keep)))

    def _missing(self, keep: StoreEntry, needed: int, unusable: int) -> int:
        """Return the bytes to remove before there is room for `needed` more.

        `unusable`: bytes that the disk reports as free, but refuses to take.
        """
        short = needed + _SPARE_BYTES - max(self._free() - unusable, 0)
        if self._limit is None:
            return short
        return max(short, self._taken(keep) + needed - self._limit)

    def _taken(self, keep: StoreEntry) -> int:
        """Return the bytes of the store, and those that other workers have yet to fetch."""
        others = (each for each in self._inventory.leftovers() if each.in_use)
        to_come = sum(each.to_come for each in others if not _is_of(each, keep))
        return self._inventory.total_bytes() + to_come

    def _free(self) -> int:
        folder = next(each for each in (self._root, *self._root.parents) if each.exists())
        return shutil.disk_usage(folder).free

    def _candidates(self, keep: StoreEntry) -> Iterator[_Candidate]:
        """Yield what may be removed: leftovers, then models, the least recently used first."""
        models = sorted(self._inventory.models(), key=lambda model: model.used_at)
        candidates: list[_Candidate] = [*self._inventory.leftovers(), *models]
        unused = [each for each in candidates if not each.in_use and not _is_of(each, keep)]
        files = _files_of(unused)
        for each in unused:  # but for those whose bytes a model that stays has too
            if any(map(files.frees, each.paths)):
                yield each

    def _removed(self, candidate: _Candidate) -> int:
        """Remove a candidate and return the bytes that this freed.

        Returns 0 where a worker has begun to use it, or it cannot be removed.
        """
        try:
            if isinstance(candidate, Leftover):
                return self._inventory.discard(candidate)
            return self._inventory.remove(candidate)
        except (ModelInUse, OSError) as exc:
            log.warning("could not make room with %s: %s", candidate, exc)
            return 0

    def _refusal(
        self, what: str, needed: int, refused: str | None, candidates: Sequence[_Candidate]
    ) -> DiskFull:
        took = f", yet it takes no more ({refused})" if refused else ""
        limit = f", of which VOLUME_MAX_GB allows {self._limit:,}" if self._limit else ""
        return DiskFull(
            f"{what} needs {needed + _SPARE_BYTES:,} bytes more on the volume of {self._root}, and "
            f"{self._free():,} are free{took}; the store has "
            f"{self._inventory.total_bytes():,}{limit}. {self._could_go(candidates)} Make room "
            "there, use a larger volume (VOLUME_PATH), or name a smaller quantisation."
        )

    def _could_go(self, candidates: Sequence[_Candidate]) -> str:
        """Return a sentence that lists the unused candidates, with their sizes."""
        if not candidates:
            return "There is nothing else that no worker uses."
        named = [f"{each} ({each.size:,} bytes)" for each in candidates[:_MOST_NAMED]]
        if more := len(candidates) - len(named):
            named.append(f"{more} more")
        total = _files_of(candidates).freed
        enough = " With VOLUME_MAX_GB set, it makes way by itself." if self._limit is None else ""
        return f"No worker uses {', '.join(named)}: {total:,} bytes.{enough}"


def _files_of(candidates: Sequence[_Candidate]) -> NamedFiles:
    return NamedFiles(path for each in candidates for path in each.paths)


def _is_of(candidate: _Candidate, keep: StoreEntry) -> bool:
    """Return whether a candidate belongs to the model at `keep`."""
    folder, commit = candidate.entry.folder, candidate.entry.commit
    return (folder, commit) == (keep.folder, keep.commit) and (
        candidate.entry.parts()[0] == keep.parts()[0]
    )
