from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from gguf_worker.errors import ModelCorrupt, ModelUnavailable
from gguf_worker.models.store import Verification
from gguf_worker.models.store.entry import StoreEntry
from tests.fake_hub import COMMIT
from tests.tiny_gguf import write_tiny


@pytest.fixture
def entries(tmp_path: Path) -> list[StoreEntry]:
    """Two published files."""
    folder = tmp_path / "org" / "repo"
    (folder / COMMIT).mkdir(parents=True)
    entries = [StoreEntry(folder, COMMIT, f"{name}.gguf") for name in "ab"]
    for entry in entries:
        part = write_tiny(entry.sidecar(".part"))
        data = part.read_bytes()
        entry.publish({"size": len(data), "sha256": hashlib.sha256(data).hexdigest()})
    return entries


def test_files_that_are_as_they_were_have_no_fault_and_took_their_time(
    entries: list[StoreEntry],
) -> None:
    reported: list[str] = []
    ticks = iter((1.0, 3.5))
    check = Verification(
        entries, on_fault=lambda: reported.append("fault"), now=lambda: next(ticks)
    )
    assert check.fault() is None
    assert (check.seconds, reported) == (2.5, [])


def test_a_wrong_file_is_reported_at_once_on_the_thread_that_found_it(
    entries: list[StoreEntry],
) -> None:
    path = entries[1].path
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    reported: list[int] = []
    check = Verification(entries, on_fault=lambda: reported.append(threading.get_ident()))
    assert isinstance(check.fault(), ModelCorrupt)
    assert reported
    assert reported != [threading.get_ident()]


def test_a_file_that_went_away_is_a_fault_too(entries: list[StoreEntry]) -> None:
    entries[0].path.unlink()
    assert isinstance(Verification(entries, on_fault=lambda: None).fault(), ModelUnavailable)


@pytest.mark.parametrize("trouble", [MemoryError(), ValueError("x"), OSError("y")])
def test_only_what_was_read_to_its_end_is_right(
    entries: list[StoreEntry], monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    def broken(entry: StoreEntry, tell: object) -> str:
        raise trouble

    monkeypatch.setattr(StoreEntry, "verify", broken)
    reported: list[bool] = []
    check = Verification(entries, on_fault=lambda: reported.append(True))
    assert check.fault() is trouble
    assert reported == [True]


def test_what_is_stopped_ends_soon_and_is_not_known_to_be_right(
    entries: list[StoreEntry], monkeypatch: pytest.MonkeyPatch
) -> None:
    reads, begun = [0], threading.Event()

    def endless(entry: StoreEntry, tell: Callable[[int], None]) -> str:
        while True:
            reads[0] += 1
            begun.set()
            tell(reads[0])

    monkeypatch.setattr(StoreEntry, "verify", endless)
    check = Verification(entries, on_fault=lambda: pytest.fail("no fault"))
    assert begun.wait(20)
    check.stop()
    assert isinstance(check.fault(), ModelCorrupt)


def test_nothing_to_read_takes_no_thread() -> None:
    before = threading.active_count()
    check = Verification((), on_fault=lambda: pytest.fail("no fault"))
    assert threading.active_count() == before
    assert check.fault() is None
