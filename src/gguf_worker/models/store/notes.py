"""Notes of the file that each reference last meant, for a start without its server.

One file, `resolved.json`, in the folder of each repository. Servers are not known here.
"""

from __future__ import annotations

import logging
from pathlib import Path

from gguf_worker.models.source import Reference, is_commit
from gguf_worker.models.store.entry import StoreEntry, read_json, write_json

log = logging.getLogger("gguf_worker.models")

_FILE = "resolved.json"


def recall(folder: Path, reference: Reference, revision: str) -> StoreEntry | None:
    """Return the file that a reference last meant; None without a readable note of it."""
    note = read_json(folder / _FILE).get(f"{reference}@{revision}")
    if not isinstance(note, dict):
        return None
    commit, file = note.get("commit"), note.get("file")
    if not isinstance(commit, str) or not isinstance(file, str) or not is_commit(commit):
        return None
    return StoreEntry(folder, commit, file)


def remember(entry: StoreEntry, reference: Reference, revision: str) -> None:
    """Note the file that a reference means; on a read-only volume that is only logged."""
    note = {"commit": entry.commit, "file": entry.file}
    try:
        path = entry.folder / _FILE
        write_json(path, read_json(path) | {f"{reference}@{revision}": note})
    except OSError as exc:
        log.warning("could not note what %s means: %s", reference, exc)
