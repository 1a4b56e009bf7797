from __future__ import annotations

import json
from pathlib import Path

import pytest

from gguf_worker.errors import DownloadFailed
from gguf_worker.models.source.hub_reference import HubQuant
from gguf_worker.models.store.entry import StoreEntry
from gguf_worker.models.store.notes import recall, remember
from tests.fake_hub import COMMIT, FakeHub
from tests.models.store.conftest import (
    FILE,
    NEWER,
    Volume,
)
from tests.tiny_repository import NAME, REPO

NOWHERE = "http://127.0.0.1:9"


def test_what_a_reference_meant_is_remembered_for_each_revision_of_its_own(tmp_path: Path) -> None:
    old = StoreEntry(tmp_path, COMMIT, "a-Q8_0.gguf")
    new = StoreEntry(tmp_path, NEWER, "a-Q8_0.gguf")
    quant = HubQuant("org/a", "Q8_0")
    remember(old, quant, "v1")
    remember(new, quant, "main")
    assert [recall(tmp_path, quant, each) for each in ("v1", "main", "v2")] == [old, new, None]
    assert recall(tmp_path, HubQuant("org/a"), "main") is None
    assert json.loads((tmp_path / "resolved.json").read_text()) == {
        "org/a:Q8_0@v1": {"commit": COMMIT, "file": "a-Q8_0.gguf"},
        "org/a:Q8_0@main": {"commit": NEWER, "file": "a-Q8_0.gguf"},
    }


def test_a_folder_that_cannot_be_written_only_makes_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gone = tmp_path / "gone"
    remember(StoreEntry(gone, COMMIT, "a.gguf"), HubQuant("org/a"), "main")
    assert "could not note what org/a means" in caplog.text
    assert recall(gone, HubQuant("org/a"), "main") is None


def test_without_the_hub_the_commit_last_seen_is_used(
    volume: Volume, fake_hub: FakeHub, model_bytes: bytes
) -> None:
    volume.store().ensure(FILE)
    fake_hub.add(REPO, NAME, model_bytes, commit=NEWER)
    newer = volume.store().ensure(FILE)
    assert volume.store(endpoint=NOWHERE).ensure(FILE).path == newer.path


def test_a_note_of_what_was_seen_that_is_damaged_is_as_good_as_none(volume: Volume) -> None:
    volume.store().ensure(FILE)
    note = volume.root / "models" / REPO / "resolved.json"
    for text in ("", "[]", '{"org/Tiny-GGUF/tiny-F16.gguf@main": {"commit": "../x", "file": "y"}}'):
        note.write_text(text)
        with pytest.raises(DownloadFailed):
            volume.store(endpoint=NOWHERE).ensure(FILE)
