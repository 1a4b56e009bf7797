from __future__ import annotations

import hashlib
import itertools
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from gguf_worker.errors import DownloadFailed
from gguf_worker.models.source import Hub, RemoteFile
from gguf_worker.models.store import PieceSizes, Progress, Store
from gguf_worker.models.store.part_file import ContentHashes, complete
from gguf_worker.models.store.part_plan import PartPlan, Spans
from tests.fake_hub import COMMIT, FakeHub
from tests.local_server import Cut
from tests.models.store.conftest import (
    FILE,
    HeldRanges,
    Volume,
    leave_part,
    sha256_of,
)
from tests.tiny_repository import NAME


def test_a_cut_connection_is_resumed_within_the_call(
    volume: Volume, fake_hub: FakeHub, model_bytes: bytes
) -> None:
    fake_hub.misbehave("file", Cut(100_000), Cut(50_000))
    assert volume.store().ensure(FILE).sha256 == sha256_of(model_bytes)
    assert [seen.range for seen in fake_hub.downloads()] == [None, "bytes=100000-", "bytes=150000-"]


def test_a_complete_part_only_has_to_be_checked(
    volume: Volume, fake_hub: FakeHub, model_bytes: bytes
) -> None:
    leave_part(
        volume, model_bytes, commit=COMMIT, size=len(model_bytes), sha256=sha256_of(model_bytes)
    )
    assert volume.store().ensure(FILE).path.read_bytes() == model_bytes
    assert fake_hub.downloads() == []


def test_progress_is_reported_five_times_a_second_and_at_the_end(
    volume: Volume, fake_hub: FakeHub, model_bytes: bytes
) -> None:
    hub = Hub(fake_hub.url, None)
    Store(volume.root / "fast", {"hub": hub}, volume.progress.append, now=lambda: 1.0).ensure(FILE)
    assert volume.progress == [Progress(NAME, len(model_bytes), len(model_bytes), 0.0)]

    volume.progress.clear()
    fake_hub.bytes_per_second = len(model_bytes)
    seconds = itertools.count(0.0, 0.2)
    Store(
        volume.root / "slow", {"hub": hub}, volume.progress.append, now=lambda: next(seconds)
    ).ensure(FILE)
    hub.close()
    done = [step.done_bytes for step in volume.progress]
    assert len(done) > 2
    assert done == sorted(done)
    assert done[-1] == len(model_bytes)
    assert volume.progress[-1].bytes_per_second > 0


def test_a_resumed_download_counts_its_speed_from_where_it_was_resumed(
    volume: Volume, model_bytes: bytes, fake_hub: FakeHub
) -> None:
    part = model_bytes[:-1000]
    leave_part(volume, part, commit=COMMIT, size=len(model_bytes), sha256=sha256_of(model_bytes))
    ticks = iter(range(1000))
    hub = Hub(fake_hub.url, None)
    Store(volume.root, {"hub": hub}, volume.progress.append, now=lambda: float(next(ticks))).ensure(
        FILE
    )
    hub.close()
    assert volume.progress[-1].bytes_per_second <= 1000


DATA = bytes(range(256)) * 10


def _remote(blob: str | None = None) -> RemoteFile:
    return RemoteFile("org/a", "a.gguf", COMMIT, len(DATA), None, "https://a.test", blob=blob)


def _complete(
    part: Path,
    remote: RemoteFile,
    there: Spans = (),
    sizes: PieceSizes | None = None,
    ranges: HeldRanges | None = None,
) -> tuple[ContentHashes, list[Spans]]:
    """Complete a part, and return its hashes and what was noted."""
    notes: list[Spans] = []
    plan = PartPlan(len(DATA), there, sizes or PieceSizes())
    ranges = ranges or HeldRanges(DATA)
    hashes = complete(part, remote, plan, ranges, lambda progress: None, notes.append)
    return hashes, notes


MANY = PieceSizes(connections=4, least_file=0, least=100, most=100, least_split=1000)


@pytest.mark.parametrize("there", [0, 100, len(DATA)])
def test_a_part_is_completed_from_where_it_ends_and_hashed_as_a_whole(
    tmp_path: Path, there: int
) -> None:
    part = tmp_path / "a.gguf.part"
    part.write_bytes(DATA[:there])
    ranges = HeldRanges(DATA)
    hashes, _ = _complete(part, _remote(), ((0, there),), ranges=ranges)
    assert ranges.asked == ([] if there == len(DATA) else [there])
    assert part.read_bytes() == DATA
    assert hashes.sha256 == sha256_of(DATA)
    assert hashes.matches_blob()


def test_a_part_with_gaps_gets_what_it_lacks_and_nothing_again(tmp_path: Path) -> None:
    there = ((0, 500), (700, 1000), (2400, len(DATA)))
    part = tmp_path / "a.gguf.part"
    with part.open("wb") as file:
        for start, end in there:
            file.seek(start)
            file.write(DATA[start:end])
    ranges = HeldRanges(DATA)
    hashes, _ = _complete(part, _remote(), there, MANY, ranges)
    assert hashes.sha256 == sha256_of(part.read_bytes()) == sha256_of(DATA)
    assert sorted(ranges.asked)[:3] == [500, 600, 1000]
    assert ranges.sent == len(DATA) - 500 - 300 - (len(DATA) - 2400)


def test_what_is_noted_when_a_download_fails_is_on_the_disk(tmp_path: Path) -> None:
    part = tmp_path / "a.gguf.part"
    part.touch()
    notes: list[Spans] = []
    plan = PartPlan(len(DATA), (), MANY)
    with pytest.raises(DownloadFailed, match="as if"):
        complete(part, _remote(), plan, HeldRanges(DATA, 1200), lambda progress: None, notes.append)
    noted, found = notes[-1], part.read_bytes()
    assert noted
    assert all(found[start:end] == DATA[start:end] for start, end in noted)
    assert all(end <= 1200 or start > 1200 for start, end in noted)


def test_the_piece_of_a_connection_that_stays_silent_is_taken_over(tmp_path: Path) -> None:
    part = tmp_path / "a.gguf.part"
    part.touch()
    ranges = HeldRanges(DATA, stall_once_at=1000)
    plan = PartPlan(len(DATA), (), replace(MANY, slow_seconds=0))
    hashes = complete(part, _remote(), plan, ranges, lambda progress: None, lambda there: None)
    assert hashes.sha256 == sha256_of(part.read_bytes()) == sha256_of(DATA)


def test_an_error_of_whoever_watches_ends_all_connections(tmp_path: Path) -> None:
    def interrupted(progress: Progress) -> None:
        raise KeyboardInterrupt

    part = tmp_path / "a.gguf.part"
    part.touch()
    ranges = HeldRanges(DATA, stall_at=0)
    ticks = itertools.count()
    plan = PartPlan(len(DATA), (), MANY)
    with pytest.raises(KeyboardInterrupt):
        complete(
            part, _remote(), plan, ranges, interrupted, lambda there: None, lambda: next(ticks)
        )
    assert ranges.closed.is_set()
    assert not [each for each in threading.enumerate() if each.name.startswith("download")]


@pytest.mark.parametrize("right", [True, False])
def test_what_git_calls_the_content_is_compared_where_the_server_says_it(
    tmp_path: Path, right: bool
) -> None:
    part = tmp_path / "a.gguf.part"
    part.touch()
    blob = hashlib.sha1(b"blob %d\0" % len(DATA) + DATA).hexdigest() if right else "0" * 40
    hashes, _ = _complete(part, _remote(blob))
    assert hashes.matches_blob() is right
