from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest

from gguf_worker.errors import ModelCorrupt, ModelUnavailable
from gguf_worker.models.store import entry as shelf
from gguf_worker.models.store.entry import StoreEntry, hash_of, read_json, write_json
from tests.tiny_gguf import write_tiny

COMMIT = "1f" * 20
NOTED = 1_700_000_000_600_000_123


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


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_a_file_that_was_in_an_archive_is_not_read_again(
    entry: StoreEntry, tmp_path: Path, caplog: pytest.LogCaptureFixture, form: int
) -> None:
    """Layers of images are such archives: a baked-in model has its time in whole seconds."""
    os.utime(entry.path, ns=(1, NOTED))
    write_json(entry.sidecar(".json"), read_json(entry.sidecar(".json")) | {"changed_ns": NOTED})
    with tarfile.open(tmp_path / "layer.tar", "w", format=form) as layer:
        layer.add(entry.folder, "repo")
    with tarfile.open(tmp_path / "layer.tar") as layer:
        layer.extractall(tmp_path / "image", filter="fully_trusted")
    baked = StoreEntry(tmp_path / "image/repo", COMMIT, entry.file)
    assert baked.path.stat().st_mtime_ns == NOTED // 10**9 * 10**9
    caplog.set_level("INFO")
    assert baked.published("stamp") == hash_of(entry.path)
    assert "every byte" not in caplog.text


@pytest.mark.parametrize(
    ("time", "read"),
    [
        (NOTED, False),
        (1_700_000_000 * 10**9, False),  # cut
        (1_700_000_001 * 10**9, False),  # rounded
        (NOTED + 1, True),
        (1_700_000_000 * 10**9 + 1, True),
        (1_699_999_999 * 10**9, True),
        (1_700_000_002 * 10**9, True),
    ],
)
def test_only_the_noted_time_or_its_second_counts_as_unchanged(
    entry: StoreEntry, caplog: pytest.LogCaptureFixture, time: int, read: bool
) -> None:
    write_json(entry.sidecar(".json"), read_json(entry.sidecar(".json")) | {"changed_ns": NOTED})
    os.utime(entry.path, ns=(1, time))
    caplog.set_level("INFO")
    assert entry.published("stamp") == hash_of(entry.path)
    assert ("every byte" in caplog.text) is read


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
