from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from gguf_worker.models.source import Hub, RemoteFile
from gguf_worker.models.store import Progress, Store
from gguf_worker.models.store.part_file import complete
from tests.fake_hub import COMMIT, FakeHub
from tests.local_server import Cut
from tests.models.store.conftest import (
    FILE,
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
    seconds = itertools.count(0.0, 0.2)
    Store(
        volume.root / "slow", {"hub": hub}, volume.progress.append, now=lambda: next(seconds)
    ).ensure(FILE)
    hub.close()
    done = [step.done_bytes for step in volume.progress]
    assert len(done) > 2
    assert done == sorted(done)
    assert done[-1] == len(model_bytes)
    assert all(step.bytes_per_second > 0 for step in volume.progress)


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


@pytest.mark.parametrize("there", [0, 100, len(DATA)])
def test_a_part_is_completed_from_where_it_ends_and_hashed_as_a_whole(
    tmp_path: Path, there: int
) -> None:
    part = tmp_path / "a.gguf.part"
    part.write_bytes(DATA[:there])

    def rest(done: int) -> Iterator[bytes]:
        assert done == there
        yield DATA[done:]

    hashes = complete(part, _remote(), rest, lambda progress: None)
    assert part.read_bytes() == DATA
    assert hashes.sha256 == sha256_of(DATA)
    assert hashes.matches_blob()


@pytest.mark.parametrize("right", [True, False])
def test_what_git_calls_the_content_is_compared_where_the_server_says_it(
    tmp_path: Path, right: bool
) -> None:
    part = tmp_path / "a.gguf.part"
    part.touch()
    blob = hashlib.sha1(b"blob %d\0" % len(DATA) + DATA).hexdigest() if right else "0" * 40
    hashes = complete(part, _remote(blob), lambda done: iter([DATA]), lambda progress: None)
    assert hashes.matches_blob() is right
