from __future__ import annotations

import errno
import logging
import resource
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from gguf_worker.errors import (
    DiskFull,
    DownloadFailed,
    ModelCorrupt,
    ModelUnsupported,
)
from gguf_worker.models.source import Hub, RemoteFile
from gguf_worker.models.store import Inventory, Store, StoredModel, download, lease
from gguf_worker.models.store.entry import StoreEntry, compare_hash
from gguf_worker.models.store.eviction import Eviction
from tests.fake_hub import COMMIT, FakeHub
from tests.local_server import Cut, Fault, Flip, Length, Stall, Status
from tests.models.store.conftest import (
    FILE,
    PUBLISHED,
    SPLIT,
    Volume,
    leave_part,
    pretend_free,
    sha256_of,
)
from tests.tiny_gguf import write_tiny
from tests.tiny_repository import NAME, REPO

# Interrupted and damaged downloads.


class _Killed(BaseException):
    pass


def test_a_killed_download_publishes_nothing_and_is_resumed(
    volume: Volume, fake_hub: FakeHub, model_bytes: bytes
) -> None:
    hub = Hub(fake_hub.url, None, sleep=_raise_killed)
    fake_hub.misbehave("file", Cut(100_000))
    with pytest.raises(_Killed):
        Store(volume.root, {"hub": hub}, volume.progress.append).ensure(FILE)
    hub.close()
    assert volume.names() == {f"{NAME}.part", f"{NAME}.part.json"}
    part = (volume.folder / f"{NAME}.part").stat().st_size
    assert 0 < part <= 100_000

    assert volume.store().ensure(FILE).path.read_bytes() == model_bytes
    assert fake_hub.downloads()[-1].range == f"bytes={part}-"
    assert volume.names() == PUBLISHED


def _raise_killed(seconds: float) -> None:
    raise _Killed


def test_a_part_of_something_else_is_thrown_away(
    volume: Volume, fake_hub: FakeHub, model_bytes: bytes
) -> None:
    leave_part(volume, model_bytes[:1000], commit=COMMIT, size=len(model_bytes), sha256="0" * 64)
    volume.store().ensure(FILE)
    assert [seen.range for seen in fake_hub.downloads()] == [None]


@pytest.mark.parametrize("data", [b"x" * 1000, b"x" * 1_000_000])
def test_a_part_that_was_altered_is_found_out_and_fetched_again(
    volume: Volume, fake_hub: FakeHub, model_bytes: bytes, data: bytes
) -> None:
    leave_part(volume, data, commit=COMMIT, size=len(model_bytes), sha256=sha256_of(model_bytes))
    assert volume.store().ensure(FILE).path.read_bytes() == model_bytes
    assert fake_hub.downloads()[-1].range is None


def test_an_altered_download_is_fetched_once_more(
    volume: Volume, fake_hub: FakeHub, model_bytes: bytes
) -> None:
    fake_hub.misbehave("file", Flip(200_000))
    assert volume.store().ensure(FILE).path.read_bytes() == model_bytes
    assert len(fake_hub.downloads()) == 2


def test_a_download_altered_twice_is_refused_with_both_hashes(
    volume: Volume, fake_hub: FakeHub, model_bytes: bytes
) -> None:
    fake_hub.misbehave("file", Flip(200_000), Flip(200_001))
    altered = bytearray(model_bytes)
    altered[200_001] ^= 0x40
    with pytest.raises(ModelCorrupt) as refused:
        volume.store().ensure(FILE)
    assert sha256_of(model_bytes) in str(refused.value)
    assert sha256_of(bytes(altered)) in str(refused.value)
    assert not refused.value.permanent, "another host, or another way, may do"
    assert NAME not in volume.names()
    assert f"{NAME}.part" not in volume.names()


def test_a_given_hash_is_checked_where_the_hub_has_none(
    volume: Volume, fake_hub: FakeHub, model_bytes: bytes
) -> None:
    fake_hub.add(REPO, NAME, model_bytes, lfs=False)
    with pytest.raises(ModelCorrupt, match="damaged twice") as refused:
        volume.store().ensure(FILE, sha256="0" * 64)
    assert refused.value.permanent, "twice the same: the hash is wrong, or the file"
    found = volume.store().ensure(FILE, sha256=sha256_of(model_bytes))
    assert found.sha256 == sha256_of(model_bytes)
    with pytest.raises(ModelCorrupt, match="was expected"):
        volume.store().ensure(FILE, sha256="0" * 64)


def test_a_file_that_is_damaged_on_the_hub_is_not_published(
    volume: Volume, fake_hub: FakeHub, model_bytes: bytes
) -> None:
    fake_hub.add(REPO, NAME, model_bytes[:-100])
    with pytest.raises(ModelCorrupt, match="its tensors need"):
        volume.store().ensure(FILE)
    assert NAME not in volume.names()


def test_a_model_that_is_not_supported_is_fetched_only_once(
    volume: Volume, fake_hub: FakeHub, tmp_path: Path
) -> None:
    strange = write_tiny(tmp_path / "a.gguf", metadata={"general.type": "adapter"}).read_bytes()
    fake_hub.add(REPO, NAME, strange)
    for _ in range(2):
        with pytest.raises(ModelUnsupported, match="adapter") as refused:
            volume.store().ensure(FILE)
        assert str(volume.model) in str(refused.value)
    assert len(fake_hub.downloads()) == 1


@pytest.mark.parametrize(
    "fault", [Status(429, {"Retry-After": "3"}), Status(500), Status(503), Stall(100_000)], ids=str
)
def test_what_may_pass_is_waited_out_within_the_call(
    volume: Volume, fake_hub: FakeHub, model_bytes: bytes, fault: Fault
) -> None:
    fake_hub.misbehave("file", fault)
    assert volume.store(timeout=0.3).ensure(FILE).path.read_bytes() == model_bytes
    assert volume.names() == PUBLISHED


@pytest.mark.parametrize("change", [-1000, 1000])
def test_a_file_that_has_another_length_when_it_is_resumed_is_refused_and_the_next_start_has_it(
    volume: Volume, fake_hub: FakeHub, model_bytes: bytes, change: int
) -> None:
    fake_hub.misbehave("file", Cut(100_000), Length(len(model_bytes) + change))
    with pytest.raises(DownloadFailed, match="were announced"):
        volume.store().ensure(FILE)
    assert volume.names() == {f"{NAME}.part", f"{NAME}.part.json"}
    assert volume.store().ensure(FILE).path.read_bytes() == model_bytes


def test_a_file_with_other_content_when_it_is_resumed_is_fetched_anew(
    volume: Volume, fake_hub: FakeHub, model_bytes: bytes
) -> None:
    fake_hub.misbehave("file", Cut(100_000), Flip(200_000))
    assert volume.store().ensure(FILE).path.read_bytes() == model_bytes
    assert [seen.range for seen in fake_hub.downloads()] == [None, "bytes=100000-", None]


# The disk.


def test_too_little_room_is_seen_before_the_download(
    volume: Volume, fake_hub: FakeHub, model_bytes: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_free(monkeypatch, 1000)
    needed = len(model_bytes) + (16 << 20)
    with pytest.raises(DiskFull, match=f"needs {needed:,} bytes more .* and 1,000 are free"):
        volume.store().ensure(FILE)
    assert fake_hub.downloads() == []


def test_a_damaged_copy_makes_room_where_there_is_none(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume.store().ensure(FILE)
    volume.model.write_bytes(b"")
    pretend_free(monkeypatch, 1000, 1 << 40)
    assert volume.store().ensure(FILE).fetched
    assert volume.names() == PUBLISHED


def test_a_disk_that_fills_up_is_reported_and_keeps_no_part(
    volume: Volume, fake_hub: FakeHub
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    store = volume.store()
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, hard))
    try:
        with pytest.raises(
            DiskFull, match=r"needs [\d,]+ bytes more .* takes no more \(File too large\)"
        ):
            store.ensure(FILE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert f"{NAME}.part" not in volume.names()
    assert store.ensure(FILE).fetched


def test_another_trouble_of_the_disk_may_pass(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(path: Path, target: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "replace", broken)
    with pytest.raises(DownloadFailed, match="Input/output error"):
        volume.store().ensure(FILE)


# Several workers, and people who watch.


@pytest.mark.usefixtures("quick_leases")
def test_two_workers_fetch_a_model_once(volume: Volume, fake_hub: FakeHub) -> None:
    waiting = threading.Event()
    handler = logging.Handler()
    handler.emit = lambda record: (  # type: ignore[method-assign]
        waiting.set() if "waiting for another worker" in record.getMessage() else None
    )
    logger = logging.getLogger("gguf_worker.models")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    fake_hub.before_file.clear()
    try:
        with ThreadPoolExecutor() as pool:
            first = pool.submit(volume.store().ensure, FILE)
            assert fake_hub.file_asked.wait(10)
            second = pool.submit(volume.store().ensure, FILE)
            assert waiting.wait(10)
            fake_hub.before_file.set()
            results: list[StoredModel] = [first.result(20), second.result(20)]
    finally:
        fake_hub.before_file.set()
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
    assert [result.fetched for result in results] == [True, False]
    assert len(fake_hub.downloads()) == 1


# Split models.


def test_a_cut_download_of_a_part_goes_on_where_it_ended(
    volume: Volume, fake_hub: FakeHub, split: list[str]
) -> None:
    fake_hub.misbehave("file", Cut(1000))
    volume.store().ensure(SPLIT)
    assert [seen.range for seen in fake_hub.downloads()] == [
        None,
        "bytes=1000-",
        *[None] * (len(split) - 1),
    ]


def test_room_for_all_parts_is_made_before_the_first(
    volume: Volume, fake_hub: FakeHub, split: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_free(monkeypatch, (16 << 20) + 1000)
    with pytest.raises(DiskFull, match="bytes more"):
        volume.store().ensure(SPLIT)
    assert not fake_hub.downloads()


def test_all_that_is_to_come_of_a_split_model_counts_for_others_from_its_start(
    volume: Volume, fake_hub: FakeHub, split: list[str]
) -> None:
    fake_hub.before_file.clear()
    with ThreadPoolExecutor(1) as pool:
        fetching = pool.submit(volume.store().ensure, SPLIT)
        assert fake_hub.file_asked.wait(20)
        planned = Inventory(volume.root).leftovers()
        fake_hub.before_file.set()
        model = fetching.result(20)
    sizes = {name: model.path.with_name(name).stat().st_size for name in split}
    assert {each.file: each.to_come for each in planned} == sizes
    assert all(each.in_use for each in planned)
    assert Inventory(volume.root).leftovers() == ()


def test_a_split_model_without_room_leaves_nothing_of_its_plan(
    volume: Volume, fake_hub: FakeHub, split: list[str]
) -> None:
    with pytest.raises(DiskFull):
        volume.store(limit=1000).ensure(SPLIT)
    assert Inventory(volume.root).leftovers() == ()
    assert fake_hub.downloads() == []


def test_a_plan_without_room_takes_no_part_from_the_worker_that_fetches_it(
    volume: Volume, fake_hub: FakeHub, split: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    announce, looked, go = download._announce, threading.Event(), threading.Event()

    def announce_late(entry: StoreEntry, remote: RemoteFile) -> None:
        if threading.current_thread().name == "late":
            looked.set()
            assert go.wait(20)
        announce(entry, remote)

    monkeypatch.setattr(download, "_announce", announce_late)
    limits = iter([1 << 40, 1000])
    refusing = volume.store(limit=1 << 40)
    make_room = Eviction.make_room

    def make_once(self: Eviction, *args: Any, **more: Any) -> None:
        if threading.current_thread().name == "late":
            self._limit = next(limits)
        make_room(self, *args, **more)

    monkeypatch.setattr(Eviction, "make_room", make_once)
    refused: list[Exception] = []

    def late() -> None:
        try:
            refusing.ensure(SPLIT)
        except DiskFull as exc:
            refused.append(exc)

    fake_hub.before_file.clear()
    thread = threading.Thread(target=late, name="late")
    thread.start()
    assert looked.wait(20)
    with ThreadPoolExecutor(1) as pool:
        fetching = pool.submit(volume.store().ensure, SPLIT)
        assert fake_hub.file_asked.wait(20)
        go.set()
        thread.join()
        fake_hub.before_file.set()
        assert fetching.result(20).fetched
    assert refused
    assert len(fake_hub.downloads()) == len(split)


def test_an_announcement_of_a_file_that_is_there_counts_for_nobody(volume: Volume) -> None:
    model = volume.store().ensure(FILE)
    for ending, text in ((".part", ""), (".part.json", '{"size": 1000000}')):
        model.path.with_name(NAME + ending).write_text(text)
    (left,) = Inventory(volume.root).leftovers()
    assert (left.in_use, left.to_come) == (True, 0)
    volume.close()
    assert Inventory(volume.root).discard(left) == 0
    assert volume.names() == PUBLISHED


def test_a_part_that_another_worker_took_over_is_not_taken_away_from_it(
    volume: Volume, fake_hub: FakeHub, model_bytes: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = [True]

    def taken_over(what: str, found: str, wanted: str, *, permanent: bool) -> None:
        if before:
            before.clear()
            (volume.folder / f"{NAME}.lock.2").write_text('{"released": true}')
            raise ModelCorrupt("as if")
        compare_hash(what, found, wanted, permanent=permanent)

    monkeypatch.setattr(download, "compare_hash", taken_over)
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.05)
    assert volume.store().ensure(FILE).path.read_bytes() == model_bytes
    assert len(fake_hub.downloads()) == 1


@pytest.mark.usefixtures("quick_leases")
def test_a_part_that_another_worker_has_finished_meanwhile_leaves_no_plan(
    volume: Volume, fake_hub: FakeHub, split: list[str]
) -> None:
    fake_hub.before_file.clear()
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(volume.store().ensure, SPLIT) for _ in range(2)]
        assert fake_hub.file_asked.wait(20)
        fake_hub.before_file.set()
        assert sorted(each.result(30).fetched for each in both) in ([False, True], [True, True])
    assert len(fake_hub.downloads()) == len(split)
    assert Inventory(volume.root).leftovers() == ()
