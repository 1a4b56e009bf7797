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
def place(tmp_path: Path) -> StoreEntry:
    """A published model."""
    place = StoreEntry(tmp_path / "org/repo", COMMIT, "tiny.gguf")
    part = place.beside(".part")
    part.parent.mkdir(parents=True)
    write_tiny(part)
    place.publish({"size": part.stat().st_size, "sha256": hash_of(part)})
    return place


def test_a_file_as_it_was_published_is_verified_to_its_last_byte(place: StoreEntry) -> None:
    told: list[int] = []
    assert place.verify(told.append) == hash_of(place.beside())
    assert told[-1] == place.beside().stat().st_size
    assert told == sorted(told)


def test_a_changed_byte_is_found_although_size_and_time_are_the_same(place: StoreEntry) -> None:
    path, stat = place.beside(), place.beside().stat()
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\xff")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert place.published("stamp") is not None
    with pytest.raises(ModelCorrupt, match="sha256"):
        place.verify(lambda done: None)


def test_a_file_of_another_length_is_not_even_read(place: StoreEntry) -> None:
    os.truncate(place.beside(), 100)
    told: list[int] = []
    with pytest.raises(ModelCorrupt, match="no longer"):
        place.verify(told.append)
    assert told == []


def test_a_file_without_its_manifest_is_not_there(place: StoreEntry) -> None:
    place.beside(".json").unlink()
    assert not place.here()
    with pytest.raises(ModelUnavailable, match="not there as a whole"):
        place.verify(lambda done: None)


def test_drafts_of_processes_with_one_number_do_not_meet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in two containers that share a volume."""
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
