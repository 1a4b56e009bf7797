from __future__ import annotations

import os
from pathlib import Path

import pytest

from gguf_worker.errors import ModelCorrupt, ModelUnavailable
from gguf_worker.models.store import entry as shelf
from gguf_worker.models.store.entry import StoreEntry, hash_of
from tests.tiny_gguf import write_tiny

COMMIT = "1f" * 20


@pytest.fixture
def entry(tmp_path: Path) -> StoreEntry:
    """A published model."""
    entry = StoreEntry(tmp_path / "org/repo", COMMIT, "tiny.gguf")
    part = entry.sidecar(".part")
    part.parent.mkdir(parents=True)
    write_tiny(part)
    entry.publish({"size": part.stat().st_size, "sha256": hash_of(part)})
    return entry


def test_a_file_as_it_was_published_is_verified_to_its_last_byte(entry: StoreEntry) -> None:
    reported: list[int] = []
    assert entry.verify(reported.append) == hash_of(entry.path)
    assert reported[-1] == entry.path.stat().st_size
    assert reported == sorted(reported)


def test_a_changed_byte_is_found_although_size_and_time_are_the_same(entry: StoreEntry) -> None:
    path, stat = entry.path, entry.path.stat()
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\xff")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert entry.published("stamp") is not None
    with pytest.raises(ModelCorrupt, match="sha256"):
        entry.verify(lambda done: None)


def test_a_file_of_another_length_is_not_even_read(entry: StoreEntry) -> None:
    os.truncate(entry.path, 100)
    reported: list[int] = []
    with pytest.raises(ModelCorrupt, match="no longer"):
        entry.verify(reported.append)
    assert reported == []


def test_a_file_without_its_manifest_is_not_there(entry: StoreEntry) -> None:
    entry.sidecar(".json").unlink()
    assert not entry.here()
    with pytest.raises(ModelUnavailable, match="not there as a whole"):
        entry.verify(lambda done: None)


def test_drafts_of_processes_with_one_number_do_not_meet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two containers that share a volume have processes of one number."""
    path = tmp_path / "m.gguf.json"
    drafts: list[Path] = []
    real = Path.replace

    def replace(draft: Path, target: Path) -> Path:
        drafts.append(draft)
        if len(drafts) == 1:
            shelf.write_json(path, {"by": "another"})
        return real(draft, target)

    monkeypatch.setattr(Path, "replace", replace)
    shelf.write_json(path, {"by": "one"})
    assert len(set(drafts)) == 2
    assert shelf.read_json(path) == {"by": "one"}
    assert set(tmp_path.iterdir()) == {path}
