from __future__ import annotations

import errno
import hashlib
import itertools
import json
import logging
import os
import resource
import shutil
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from gguf_worker.errors import (
    ConfigError,
    DiskFull,
    DownloadFailed,
    ModelCorrupt,
    ModelUnavailable,
    ModelUnsupported,
)
from gguf_worker.models.gguf.splits import parts_of
from gguf_worker.models.source import Hub, RemoteFile
from gguf_worker.models.source.hub_reference import HubFile, HubQuant
from gguf_worker.models.source.reference import LocalFile
from gguf_worker.models.store import Inventory, Progress, Store, StoredModel, download, lease
from gguf_worker.models.store import entry as entry_module
from gguf_worker.models.store.entry import Check, StoreEntry
from gguf_worker.models.store.eviction import Eviction
from gguf_worker.models.store.usage_marks import in_use
from tests.fake_hub import COMMIT, FakeHub
from tests.local_server import Cut, Fault, Flip, Length, Stall, Status
from tests.tiny_gguf import write_tiny
from tests.tiny_repository import NAME, REPO, tiny_hub

FILE = HubFile(REPO, NAME)
NEWER = "2e" * 20


@pytest.fixture(scope="session")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_tiny(tmp_path_factory.mktemp("tiny") / "tiny.gguf").read_bytes()


@pytest.fixture
def fake(content: bytes) -> Iterator[FakeHub]:
    with tiny_hub(content) as fake:
        yield fake


class _Volume:
    """A volume, and new stores on it as new workers would have them."""

    def __init__(self, root: Path, fake: FakeHub) -> None:
        self.root = root
        self.folder = root / "models" / REPO / COMMIT
        self.model = self.folder / NAME
        self.progress: list[Progress] = []
        self._fake = fake
        self._hubs: list[Hub] = []
        self._stores: list[Store] = []

    def store(
        self,
        *,
        endpoint: str | None = None,
        caches: Sequence[Path] = (),
        check: Check = "stamp",
        check_given: Check | None = None,
        limit: int | None = None,
        timeout: float = 5,
        offline: bool = False,
    ) -> Store:
        hub = Hub(endpoint or self._fake.url, None, timeout=timeout, sleep=lambda seconds: None)
        self._hubs.append(hub)
        store = Store(
            self.root,
            {"hub": hub},
            self.progress.append,
            caches=caches,
            check=check,
            check_given=check_given,
            limit=limit,
            offline=offline,
        )
        self._stores.append(store)
        return store

    def names(self) -> set[str]:
        """What lies in the commit's folder, but for the lock and the marks of use."""
        return {
            path.name
            for path in self.folder.iterdir()
            if ".lock." not in path.name and ".use." not in path.name
        }

    def close(self) -> None:
        for store in self._stores:
            store.close()
        for hub in self._hubs:
            hub.close()


@pytest.fixture
def volume(tmp_path: Path, fake: FakeHub) -> Iterator[_Volume]:
    volume = _Volume(tmp_path / "volume", fake)
    yield volume
    volume.close()


PUBLISHED = {NAME, f"{NAME}.json"}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# Files of this machine.


def test_a_local_file_is_used_where_it_lies(volume: _Volume, tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "mine.gguf")
    found = volume.store().ensure(LocalFile(path))
    assert found.path == path
    assert found.header.name == "tiny llama"
    assert (found.sha256, found.source, found.fetched) == (None, str(path), False)
    assert not volume.root.exists()


def test_a_local_file_is_hashed_only_when_its_hash_is_given(
    volume: _Volume, tmp_path: Path
) -> None:
    path = write_tiny(tmp_path / "mine.gguf")
    right = _sha256(path.read_bytes())
    assert volume.store().ensure(LocalFile(path), sha256=right.upper()).sha256 == right
    with pytest.raises(ModelCorrupt, match=f"{right}, and {'0' * 64} was expected"):
        volume.store().ensure(LocalFile(path), sha256="0" * 64)


def test_a_local_file_that_is_missing_is_unavailable(volume: _Volume, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="there is no file"):
        volume.store().ensure(LocalFile(tmp_path / "none.gguf"))


# Fetching and finding again.


def test_a_model_is_fetched_checked_and_published(
    volume: _Volume, fake: FakeHub, content: bytes
) -> None:
    found = volume.store().ensure(FILE)
    assert found.path == found.header.path == volume.model
    assert found.path.read_bytes() == content
    assert (found.sha256, found.fetched) == (_sha256(content), True)
    assert found.source == f"{REPO}/{NAME}@{COMMIT}"
    assert volume.names() == PUBLISHED
    assert json.loads((volume.folder / f"{NAME}.json").read_text()) == {
        "repo": REPO,
        "file": NAME,
        "commit": COMMIT,
        "size": len(content),
        "sha256": _sha256(content),
        "changed_ns": volume.model.stat().st_mtime_ns,
    }


def test_a_published_model_costs_one_question_to_the_hub(volume: _Volume, fake: FakeHub) -> None:
    first = volume.store().ensure(FILE)
    fake.requests.clear()
    again = volume.store().ensure(FILE)
    assert (again.path, again.sha256, again.fetched) == (first.path, first.sha256, False)
    assert [seen.path for seen in fake.requests] == [f"/api/models/{REPO}/revision/main"]


@pytest.mark.parametrize("reference", [FILE, HubQuant(REPO, "F16"), HubQuant(REPO)])
def test_a_published_commit_costs_none(
    volume: _Volume, fake: FakeHub, reference: HubFile | HubQuant
) -> None:
    volume.store().ensure(reference, revision=COMMIT)
    fake.requests.clear()
    assert not volume.store().ensure(reference, revision=COMMIT).fetched
    assert fake.requests == []


def test_two_references_to_one_file_share_it(volume: _Volume, fake: FakeHub) -> None:
    assert volume.store().ensure(FILE).fetched
    assert not volume.store().ensure(HubQuant(REPO, "f16")).fetched
    assert len(fake.downloads()) == 1


def test_a_model_in_a_folder_of_its_repository_is_published_there(
    volume: _Volume, fake: FakeHub, content: bytes
) -> None:
    fake.add(REPO, "F16/deep.gguf", content)
    found = volume.store().ensure(HubFile(REPO, "F16/deep.gguf"))
    assert found.path == volume.folder / "F16" / "deep.gguf"


def test_a_new_commit_is_fetched_beside_the_old_one(
    volume: _Volume, fake: FakeHub, content: bytes, tmp_path: Path
) -> None:
    volume.store().ensure(FILE)
    other = write_tiny(tmp_path / "other.gguf", seed=1).read_bytes()
    fake.add(REPO, NAME, other, commit=NEWER)
    newer = volume.store().ensure(FILE)
    assert newer.path.read_bytes() == other
    assert volume.model.read_bytes() == content


# A Hub that is away.

NOWHERE = "http://127.0.0.1:9"


@pytest.mark.parametrize("reference", [FILE, HubQuant(REPO, "F16"), HubQuant(REPO)])
def test_without_the_hub_a_published_model_is_used_with_a_warning(
    volume: _Volume, caplog: pytest.LogCaptureFixture, reference: HubFile | HubQuant
) -> None:
    first = volume.store().ensure(reference)
    found = volume.store(endpoint=NOWHERE).ensure(reference)
    assert (found.path, found.fetched) == (first.path, False)
    assert f"using {found.source} as it was last seen" in caplog.text
    # A start is not held up for long by a Hub that is down: one further try.
    assert caplog.text.count("; trying again") == 1


def test_without_the_hub_the_commit_last_seen_is_used(
    volume: _Volume, fake: FakeHub, content: bytes
) -> None:
    volume.store().ensure(FILE)
    fake.add(REPO, NAME, content, commit=NEWER)
    newer = volume.store().ensure(FILE)
    assert volume.store(endpoint=NOWHERE).ensure(FILE).path == newer.path


@pytest.mark.parametrize(("reference", "revision"), [(FILE, "v2"), (HubQuant(REPO, "F16"), "main")])
def test_without_the_hub_nothing_else_is_taken_for_what_was_asked(
    volume: _Volume, reference: HubFile | HubQuant, revision: str
) -> None:
    volume.store().ensure(FILE)
    with pytest.raises(DownloadFailed):
        volume.store(endpoint=NOWHERE).ensure(reference, revision=revision)


def test_a_hub_that_refuses_is_believed(volume: _Volume, fake: FakeHub) -> None:
    volume.store().ensure(FILE)
    fake.misbehave("info", Status(403))
    with pytest.raises(ModelUnavailable, match="accept the licence"):
        volume.store().ensure(FILE)


def test_a_note_of_what_was_seen_that_is_damaged_is_as_good_as_none(volume: _Volume) -> None:
    volume.store().ensure(FILE)
    note = volume.root / "models" / REPO / "resolved.json"
    for text in ("", "[]", '{"org/Tiny-GGUF/tiny-F16.gguf@main": {"commit": "../x", "file": "y"}}'):
        note.write_text(text)
        with pytest.raises(DownloadFailed):
            volume.store(endpoint=NOWHERE).ensure(FILE)


# Nobody is to be asked.


@pytest.mark.parametrize("revision", ["main", COMMIT])
@pytest.mark.parametrize("reference", [FILE, HubQuant(REPO, "F16"), HubQuant(REPO)])
def test_offline_a_published_model_is_used_without_a_question(
    volume: _Volume, fake: FakeHub, reference: HubFile | HubQuant, revision: str
) -> None:
    first = volume.store().ensure(reference, revision=revision)
    fake.requests.clear()
    store = volume.store(offline=True)
    found = store.ensure(reference, revision=revision)
    assert (found.path, found.sha256, found.fetched) == (first.path, first.sha256, False)
    assert store.inspect(reference, revision=revision).where == "volume"
    assert fake.requests == []


@pytest.mark.parametrize(
    ("reference", "revision"),
    [(FILE, "v2"), (HubQuant(REPO, "Q8_0"), "main"), (HubFile("org/other", "a.gguf"), COMMIT)],
)
def test_offline_what_is_missing_is_told_with_what_is_there(
    volume: _Volume, fake: FakeHub, reference: HubFile | HubQuant, revision: str
) -> None:
    volume.store().ensure(FILE)
    fake.requests.clear()
    store = volume.store(offline=True)
    for attempt in (store.ensure, store.inspect):
        with pytest.raises(ModelUnavailable, match="with HF_HUB_OFFLINE nothing is") as refused:
            attempt(reference, revision=revision)
        assert f"{reference} at '{revision}' is not on this machine" in refused.value.message
        assert f"has {REPO}/{NAME} at {COMMIT}. Set" in refused.value.message
    assert fake.requests == []


def test_offline_a_damaged_model_is_not_fetched_again(volume: _Volume, fake: FakeHub) -> None:
    volume.store().ensure(FILE)
    volume.model.write_bytes(volume.model.read_bytes()[:-1])
    fake.requests.clear()
    with pytest.raises(ModelUnavailable, match="is not on this machine as a whole"):
        volume.store(offline=True).ensure(FILE)
    assert fake.requests == []


def test_offline_a_volume_without_models_says_so(volume: _Volume) -> None:
    with pytest.raises(ModelUnavailable, match="has no model"):
        volume.store(offline=True).ensure(FILE)


# Interrupted and damaged downloads.


class _Killed(BaseException):
    pass


def test_a_killed_download_publishes_nothing_and_is_resumed(
    volume: _Volume, fake: FakeHub, content: bytes
) -> None:
    hub = Hub(fake.url, None, sleep=_raise_killed)
    fake.misbehave("file", Cut(100_000))
    with pytest.raises(_Killed):
        Store(volume.root, {"hub": hub}, volume.progress.append).ensure(FILE)
    hub.close()
    assert volume.names() == {f"{NAME}.part", f"{NAME}.part.json"}
    part = (volume.folder / f"{NAME}.part").stat().st_size
    assert 0 < part <= 100_000

    assert volume.store().ensure(FILE).path.read_bytes() == content
    assert fake.downloads()[-1].range == f"bytes={part}-"
    assert volume.names() == PUBLISHED


def _raise_killed(seconds: float) -> None:
    raise _Killed


def test_a_cut_connection_is_resumed_within_the_call(
    volume: _Volume, fake: FakeHub, content: bytes
) -> None:
    fake.misbehave("file", Cut(100_000), Cut(50_000))
    assert volume.store().ensure(FILE).sha256 == _sha256(content)
    assert [seen.range for seen in fake.downloads()] == [None, "bytes=100000-", "bytes=150000-"]


def _leave_part(volume: _Volume, data: bytes, **note: object) -> None:
    volume.folder.mkdir(parents=True)
    (volume.folder / f"{NAME}.part").write_bytes(data)
    (volume.folder / f"{NAME}.part.json").write_text(json.dumps(note))


def test_a_complete_part_only_has_to_be_checked(
    volume: _Volume, fake: FakeHub, content: bytes
) -> None:
    _leave_part(volume, content, commit=COMMIT, size=len(content), sha256=_sha256(content))
    assert volume.store().ensure(FILE).path.read_bytes() == content
    assert fake.downloads() == []


def test_a_part_of_something_else_is_thrown_away(
    volume: _Volume, fake: FakeHub, content: bytes
) -> None:
    _leave_part(volume, content[:1000], commit=COMMIT, size=len(content), sha256="0" * 64)
    volume.store().ensure(FILE)
    assert [seen.range for seen in fake.downloads()] == [None]


@pytest.mark.parametrize("data", [b"x" * 1000, b"x" * 1_000_000])
def test_a_part_that_was_altered_is_found_out_and_fetched_again(
    volume: _Volume, fake: FakeHub, content: bytes, data: bytes
) -> None:
    _leave_part(volume, data, commit=COMMIT, size=len(content), sha256=_sha256(content))
    assert volume.store().ensure(FILE).path.read_bytes() == content
    assert fake.downloads()[-1].range is None


def test_an_altered_download_is_fetched_once_more(
    volume: _Volume, fake: FakeHub, content: bytes
) -> None:
    fake.misbehave("file", Flip(200_000))
    assert volume.store().ensure(FILE).path.read_bytes() == content
    assert len(fake.downloads()) == 2


def test_a_download_altered_twice_is_refused_with_both_hashes(
    volume: _Volume, fake: FakeHub, content: bytes
) -> None:
    fake.misbehave("file", Flip(200_000), Flip(200_001))
    altered = bytearray(content)
    altered[200_001] ^= 0x40
    with pytest.raises(ModelCorrupt) as refused:
        volume.store().ensure(FILE)
    assert _sha256(content) in str(refused.value)
    assert _sha256(bytes(altered)) in str(refused.value)
    assert NAME not in volume.names()
    assert f"{NAME}.part" not in volume.names()


def test_a_hash_that_differs_from_the_hubs_is_refused_before_the_download(
    volume: _Volume, fake: FakeHub
) -> None:
    with pytest.raises(ModelCorrupt, match=f"on the Hub has .* {'0' * 64} was expected"):
        volume.store().ensure(FILE, sha256="0" * 64)
    assert fake.downloads() == []


def test_a_given_hash_is_checked_where_the_hub_has_none(
    volume: _Volume, fake: FakeHub, content: bytes
) -> None:
    fake.add(REPO, NAME, content, lfs=False)
    with pytest.raises(ModelCorrupt, match="damaged twice"):
        volume.store().ensure(FILE, sha256="0" * 64)
    found = volume.store().ensure(FILE, sha256=_sha256(content))
    assert found.sha256 == _sha256(content)
    with pytest.raises(ModelCorrupt, match="was expected"):
        volume.store().ensure(FILE, sha256="0" * 64)


def test_a_file_that_is_damaged_on_the_hub_is_not_published(
    volume: _Volume, fake: FakeHub, content: bytes
) -> None:
    fake.add(REPO, NAME, content[:-100])
    with pytest.raises(ModelCorrupt, match="its tensors need"):
        volume.store().ensure(FILE)
    assert NAME not in volume.names()


def test_a_model_that_is_not_supported_is_fetched_only_once(
    volume: _Volume, fake: FakeHub, tmp_path: Path
) -> None:
    strange = write_tiny(tmp_path / "a.gguf", metadata={"general.type": "adapter"}).read_bytes()
    fake.add(REPO, NAME, strange)
    for _ in range(2):
        with pytest.raises(ModelUnsupported, match="adapter") as refused:
            volume.store().ensure(FILE)
        assert str(volume.model) in str(refused.value)
    assert len(fake.downloads()) == 1


@pytest.mark.parametrize(
    "fault", [Status(429, {"Retry-After": "3"}), Status(500), Status(503), Stall(100_000)], ids=str
)
def test_what_may_pass_is_waited_out_within_the_call(
    volume: _Volume, fake: FakeHub, content: bytes, fault: Fault
) -> None:
    fake.misbehave("file", fault)
    assert volume.store(timeout=1).ensure(FILE).path.read_bytes() == content
    assert volume.names() == PUBLISHED


@pytest.mark.parametrize("change", [-1000, 1000])
def test_a_file_that_has_another_length_when_it_is_resumed_is_refused_and_the_next_start_has_it(
    volume: _Volume, fake: FakeHub, content: bytes, change: int
) -> None:
    fake.misbehave("file", Cut(100_000), Length(len(content) + change))
    with pytest.raises(DownloadFailed, match="were announced"):
        volume.store().ensure(FILE)
    assert volume.names() == {f"{NAME}.part", f"{NAME}.part.json"}
    assert volume.store().ensure(FILE).path.read_bytes() == content


def test_a_file_with_other_content_when_it_is_resumed_is_fetched_anew(
    volume: _Volume, fake: FakeHub, content: bytes
) -> None:
    fake.misbehave("file", Cut(100_000), Flip(200_000))
    assert volume.store().ensure(FILE).path.read_bytes() == content
    assert [seen.range for seen in fake.downloads()] == [None, "bytes=100000-", None]


# Damage after publication.


@pytest.mark.parametrize("damage", ["truncated", "altered", "emptied"])
def test_a_published_model_found_damaged_is_put_aside_and_fetched_again(
    volume: _Volume, fake: FakeHub, content: bytes, damage: str
) -> None:
    volume.store().ensure(FILE)
    damaged = {
        "truncated": content[:-1],
        "altered": b"\0" * 4 + content[4:],
        "emptied": b"",
    }[damage]
    volume.model.write_bytes(damaged)
    found = volume.store().ensure(FILE)
    assert found.fetched
    assert found.path.read_bytes() == content
    assert (volume.folder / f"{NAME}.bad").read_bytes() == damaged


def test_a_model_without_a_readable_manifest_is_fetched_again(
    volume: _Volume, fake: FakeHub
) -> None:
    volume.store().ensure(FILE)
    (volume.folder / f"{NAME}.json").write_text("{")
    assert volume.store().ensure(FILE).fetched


def _alter(path: Path, *, stamp: int | None) -> None:
    """Change a weight, and the time of change to `stamp`, or leave it to the clock."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    if stamp is not None:
        os.utime(path, ns=(stamp, stamp))


@pytest.mark.parametrize("check", ["stamp", "full"])
def test_a_stored_model_that_was_written_to_is_found_out_and_fetched_again(
    volume: _Volume, fake: FakeHub, content: bytes, check: Check
) -> None:
    volume.store().ensure(FILE)
    _alter(volume.model, stamp=None)
    model = volume.store(check=check).ensure(FILE)
    assert model.fetched
    assert model.path.read_bytes() == content
    assert volume.names() == PUBLISHED | {f"{NAME}.bad"}


def test_a_change_that_left_no_trace_is_found_by_a_full_check_alone(
    volume: _Volume, content: bytes
) -> None:
    volume.store().ensure(FILE)
    _alter(volume.model, stamp=volume.model.stat().st_mtime_ns)
    for check in ("off", "stamp"):
        assert not volume.store(check=check).ensure(FILE).fetched
    assert volume.store(check="full").ensure(FILE).fetched
    assert volume.model.read_bytes() == content


def test_what_a_hash_was_given_for_is_read_before_it_is_opened(
    volume: _Volume, content: bytes
) -> None:
    sha256 = hashlib.sha256(content).hexdigest()
    first = volume.store().ensure(FILE)
    assert [each.file for each in first.entries] == [NAME]
    found = volume.store(check_given="full").ensure(FILE, sha256=sha256)
    assert (found.fetched, found.entries) == (False, ())
    times = volume.model.stat()
    volume.model.write_bytes(content[:-1] + b"?")
    os.utime(volume.model, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert not volume.store(check_given="full").ensure(FILE).fetched
    found = volume.store(check_given="full").ensure(FILE, sha256=sha256)
    assert found.fetched
    assert found.path.read_bytes() == content


def test_a_stored_model_that_was_only_touched_is_read_once_and_no_more(
    volume: _Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume.store().ensure(FILE)
    os.utime(volume.model, ns=(1, 1))
    read: list[Path] = []
    real = entry_module.hash_of
    monkeypatch.setattr(entry_module, "hash_of", lambda path: read.append(path) or real(path))
    for _ in range(2):
        assert not volume.store().ensure(FILE).fetched
    assert read == [volume.model]


def test_without_checks_a_model_that_was_written_to_is_used_if_it_is_as_long(
    volume: _Volume,
) -> None:
    volume.store().ensure(FILE)
    _alter(volume.model, stamp=None)
    assert not volume.store(check="off").ensure(FILE).fetched
    volume.model.write_bytes(b"")
    assert volume.store(check="off").ensure(FILE).fetched


def test_a_look_at_a_stored_model_of_ten_gigabytes_reads_its_header_only(
    volume: _Volume, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what is read, not by the clock."""
    volume.store().ensure(FILE)
    os.truncate(volume.model, 10 << 30)
    manifest = json.loads((volume.folder / f"{NAME}.json").read_text())
    stamp = volume.model.stat().st_mtime_ns
    manifest |= {"size": 10 << 30, "changed_ns": stamp}
    (volume.folder / f"{NAME}.json").write_text(json.dumps(manifest))
    before = _bytes_read()
    model = volume.store().ensure(FILE, revision=COMMIT)
    assert (model.path, model.fetched) == (volume.model, False)
    assert _bytes_read() - before < 4 << 20


def _bytes_read() -> int:
    """By this process, with all its calls."""
    return int(Path("/proc/self/io").read_text().split()[1])


# The disk.


def _pretend_free(monkeypatch: pytest.MonkeyPatch, *amounts: int) -> None:
    waiting = list(amounts)
    usage = shutil.disk_usage("/")

    def disk_usage(path: Path) -> object:
        free = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        return usage._replace(free=free)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)


def test_too_little_room_is_seen_before_the_download(
    volume: _Volume, fake: FakeHub, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    _pretend_free(monkeypatch, 1000)
    needed = len(content) + (16 << 20)
    with pytest.raises(DiskFull, match=f"needs {needed:,} bytes more .* and 1,000 are free"):
        volume.store().ensure(FILE)
    assert fake.downloads() == []


def test_a_damaged_copy_makes_room_where_there_is_none(
    volume: _Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume.store().ensure(FILE)
    volume.model.write_bytes(b"")
    _pretend_free(monkeypatch, 1000, 1 << 40)
    assert volume.store().ensure(FILE).fetched
    assert volume.names() == PUBLISHED


def test_a_disk_that_fills_up_is_said_so_and_keeps_no_part(volume: _Volume, fake: FakeHub) -> None:
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


def test_a_volume_that_cannot_be_written_is_a_matter_of_configuration(
    fake: FakeHub, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    volume = _Volume(tmp_path / "file", fake)
    with pytest.raises(ConfigError, match="cannot be written") as refused:
        volume.store().ensure(FILE)
    assert refused.value.param == "VOLUME_PATH"
    volume.close()


def test_another_trouble_of_the_disk_may_pass(
    volume: _Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(path: Path, target: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "replace", broken)
    with pytest.raises(DownloadFailed, match="Input/output error"):
        volume.store().ensure(FILE)


def test_a_link_out_of_the_volume_is_not_followed(
    volume: _Volume, tmp_path: Path, fake: FakeHub
) -> None:
    (tmp_path / "outside").mkdir()
    (volume.root / "models").mkdir(parents=True)
    (volume.root / "models" / "org").symlink_to(tmp_path / "outside")
    with pytest.raises(ConfigError, match="lies outside of"):
        volume.store().ensure(FILE)
    assert fake.downloads() == []
    assert list((tmp_path / "outside").iterdir()) == []


# Several workers, and people who watch.


def test_two_workers_fetch_a_model_once(volume: _Volume, fake: FakeHub) -> None:
    waiting = threading.Event()
    handler = logging.Handler()
    handler.emit = lambda record: (  # type: ignore[method-assign]
        waiting.set() if "waiting for another worker" in record.getMessage() else None
    )
    logger = logging.getLogger("gguf_worker.models")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    fake.before_file.clear()
    try:
        with ThreadPoolExecutor() as pool:
            first = pool.submit(volume.store().ensure, FILE)
            assert fake.file_asked.wait(10)
            second = pool.submit(volume.store().ensure, FILE)
            assert waiting.wait(10)
            fake.before_file.set()
            results: list[StoredModel] = [first.result(20), second.result(20)]
    finally:
        fake.before_file.set()
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
    assert [result.fetched for result in results] == [True, False]
    assert len(fake.downloads()) == 1


def test_progress_is_told_five_times_a_second_and_at_the_end(
    volume: _Volume, fake: FakeHub, content: bytes
) -> None:
    hub = Hub(fake.url, None)
    Store(volume.root / "fast", {"hub": hub}, volume.progress.append, now=lambda: 1.0).ensure(FILE)
    assert volume.progress == [Progress(NAME, len(content), len(content), 0.0)]

    volume.progress.clear()
    seconds = itertools.count(0.0, 0.2)
    Store(
        volume.root / "slow", {"hub": hub}, volume.progress.append, now=lambda: next(seconds)
    ).ensure(FILE)
    hub.close()
    done = [step.done_bytes for step in volume.progress]
    assert len(done) > 2
    assert done == sorted(done)
    assert done[-1] == len(content)
    assert all(step.bytes_per_second > 0 for step in volume.progress)


def test_a_resumed_download_counts_its_speed_from_where_it_was_resumed(
    volume: _Volume, content: bytes, fake: FakeHub
) -> None:
    part = content[:-1000]
    _leave_part(volume, part, commit=COMMIT, size=len(content), sha256=_sha256(content))
    ticks = iter(range(1000))
    hub = Hub(fake.url, None)
    Store(volume.root, {"hub": hub}, volume.progress.append, now=lambda: float(next(ticks))).ensure(
        FILE
    )
    hub.close()
    assert volume.progress[-1].bytes_per_second <= 1000


# Models in use, and those that make way.


def test_a_model_is_in_use_until_the_store_is_closed(volume: _Volume) -> None:
    for _ in range(2):  # fetched, and found
        store = volume.store()
        path = store.ensure(FILE).path
        assert in_use(path)
        store.close()
        assert not in_use(path)
    assert len(list(volume.folder.glob("*.use.*"))) == 1


def test_a_model_that_could_not_be_had_is_not_in_use(volume: _Volume, fake: FakeHub) -> None:
    fake.misbehave("file", Status(403))
    with pytest.raises(ModelUnavailable):
        volume.store().ensure(FILE)
    assert not in_use(volume.model)


def test_a_model_that_is_being_fetched_is_in_use(volume: _Volume, fake: FakeHub) -> None:
    fake.before_file.clear()
    with ThreadPoolExecutor() as pool:
        got = pool.submit(volume.store().ensure, FILE)
        assert fake.file_asked.wait(10)
        assert in_use(volume.model)
        fake.before_file.set()
        got.result(20)


def test_an_older_commit_makes_way_under_a_limit_unless_a_worker_uses_it(
    volume: _Volume, fake: FakeHub, content: bytes, tmp_path: Path
) -> None:
    first = volume.store()
    first.ensure(FILE)
    other = write_tiny(tmp_path / "other.gguf", seed=1).read_bytes()
    fake.add(REPO, NAME, other, commit=NEWER)
    limit = len(content) + len(other) // 2
    with pytest.raises(DiskFull, match="VOLUME_MAX_GB allows"):
        volume.store(limit=limit).ensure(FILE)
    assert volume.model.exists()
    first.close()
    assert volume.store(limit=limit).ensure(FILE).path.read_bytes() == other
    assert not volume.model.exists()


# Models that others have put into the Hub's own cache.


def _cache(root: Path, data: bytes) -> Path:
    path = root / f"models--{REPO.replace('/', '--')}" / "snapshots" / COMMIT / NAME
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    return path


def test_a_cached_model_is_used_where_it_lies_and_the_hub_is_not_asked(
    volume: _Volume, fake: FakeHub, content: bytes, tmp_path: Path
) -> None:
    path = _cache(tmp_path / "cache", content)
    for reference in (FILE, HubQuant(REPO)):
        model = volume.store(caches=[tmp_path / "cache"]).ensure(reference)
        assert (model.path, model.fetched) == (path, False)
        assert model.source == f"{REPO}/{NAME}@{COMMIT}"
    assert not fake.requests


def test_a_damaged_cached_model_is_not_used(
    volume: _Volume, content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _cache(tmp_path / "cache", content[:-1])
    model = volume.store(caches=[tmp_path / "cache"]).ensure(FILE)
    assert (model.path, model.fetched) == (volume.model, True)
    assert "the cached model is not used" in caplog.text


def test_a_cached_model_of_another_hash_than_the_given_one_is_not_used(
    volume: _Volume, content: bytes, tmp_path: Path
) -> None:
    path = _cache(tmp_path / "cache", content[:-1] + bytes([content[-1] ^ 1]))
    store = volume.store(caches=[tmp_path / "cache"])
    assert store.ensure(FILE, sha256=_sha256(content)).path == volume.model
    path.write_bytes(content)
    assert store.ensure(FILE, sha256=_sha256(content)).path == path


# Split models.


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.fixture
def split(tmp_path: Path, fake: FakeHub) -> list[str]:
    """The names of a split model's parts on the Hub."""
    first = write_tiny(_made(tmp_path / "split") / "big-Q8_0.gguf", tensors_per_file=10)
    names = list(parts_of(first.name))
    for name in names:
        fake.add("org/split", name, first.with_name(name).read_bytes())
    return names


SPLIT = HubQuant("org/split", "Q8_0")


def test_all_parts_of_a_split_model_are_fetched_and_the_first_is_opened(
    volume: _Volume, fake: FakeHub, split: list[str]
) -> None:
    model = volume.store().ensure(SPLIT)
    assert (model.path.name, model.fetched) == (split[0], True)
    assert {path.name for path in model.path.parent.glob("*.gguf")} == set(split)
    assert len(fake.downloads()) == len(split) > 2
    again = volume.store().ensure(SPLIT)
    assert (again.path, again.fetched) == (model.path, False)
    assert len(fake.downloads()) == len(split)


def test_only_the_missing_part_of_a_split_model_is_fetched(
    volume: _Volume, fake: FakeHub, split: list[str]
) -> None:
    model = volume.store().ensure(SPLIT)
    damaged, gone = (model.path.with_name(name) for name in split[1:3])
    damaged.write_bytes(damaged.read_bytes()[:-1])
    gone.unlink()
    fake.requests.clear()
    assert volume.store().ensure(SPLIT).fetched
    assert [Path(seen.path).name for seen in fake.downloads()] == split[1:3]
    assert volume.store().ensure(SPLIT).header == model.header


def test_a_cut_download_of_a_part_goes_on_where_it_ended(
    volume: _Volume, fake: FakeHub, split: list[str]
) -> None:
    fake.misbehave("file", Cut(1000))
    volume.store().ensure(SPLIT)
    assert [seen.range for seen in fake.downloads()] == [
        None,
        "bytes=1000-",
        *[None] * (len(split) - 1),
    ]


def test_room_for_all_parts_is_looked_for_before_the_first(
    volume: _Volume, fake: FakeHub, split: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _pretend_free(monkeypatch, (16 << 20) + 1000)
    with pytest.raises(DiskFull, match="bytes more"):
        volume.store().ensure(SPLIT)
    assert not fake.downloads()


def test_all_that_is_to_come_of_a_split_model_counts_for_others_from_its_start(
    volume: _Volume, fake: FakeHub, split: list[str]
) -> None:
    fake.before_file.clear()
    with ThreadPoolExecutor(1) as pool:
        fetching = pool.submit(volume.store().ensure, SPLIT)
        assert fake.file_asked.wait(20)
        planned = Inventory(volume.root).leftovers()
        fake.before_file.set()
        model = fetching.result(20)
    sizes = {name: model.path.with_name(name).stat().st_size for name in split}
    assert {each.file: each.to_come for each in planned} == sizes
    assert all(each.in_use for each in planned)
    assert Inventory(volume.root).leftovers() == ()


def test_a_split_model_without_room_leaves_nothing_of_its_plan(
    volume: _Volume, fake: FakeHub, split: list[str]
) -> None:
    with pytest.raises(DiskFull):
        volume.store(limit=1000).ensure(SPLIT)
    assert Inventory(volume.root).leftovers() == ()
    assert fake.downloads() == []


def test_a_plan_without_room_takes_no_part_from_the_worker_that_fetches_it(
    volume: _Volume, fake: FakeHub, split: list[str], monkeypatch: pytest.MonkeyPatch
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

    fake.before_file.clear()
    thread = threading.Thread(target=late, name="late")
    thread.start()
    assert looked.wait(20)
    with ThreadPoolExecutor(1) as pool:
        fetching = pool.submit(volume.store().ensure, SPLIT)
        assert fake.file_asked.wait(20)
        go.set()
        thread.join()
        fake.before_file.set()
        assert fetching.result(20).fetched
    assert refused
    assert len(fake.downloads()) == len(split)


def test_an_announcement_of_a_file_that_is_there_counts_for_nobody(volume: _Volume) -> None:
    model = volume.store().ensure(FILE)
    for ending, text in ((".part", ""), (".part.json", '{"size": 1000000}')):
        model.path.with_name(NAME + ending).write_text(text)
    (left,) = Inventory(volume.root).leftovers()
    assert (left.in_use, left.to_come) == (True, 0)
    volume.close()
    assert Inventory(volume.root).discard(left) == 0
    assert volume.names() == PUBLISHED


def test_a_part_that_another_worker_took_over_is_not_taken_away_from_it(
    volume: _Volume, fake: FakeHub, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare, before = download.compare_hash, [True]

    def taken_over(what: str, found: str, wanted: str) -> None:
        if before:
            before.clear()
            (volume.folder / f"{NAME}.lock.2").write_text('{"released": true}')
            raise ModelCorrupt("as if")
        compare(what, found, wanted)

    monkeypatch.setattr(download, "compare_hash", taken_over)
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.05)
    assert volume.store().ensure(FILE).path.read_bytes() == content
    assert len(fake.downloads()) == 1


def test_a_part_that_another_worker_has_finished_meanwhile_leaves_no_plan(
    volume: _Volume, fake: FakeHub, split: list[str]
) -> None:
    fake.before_file.clear()
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(volume.store().ensure, SPLIT) for _ in range(2)]
        assert fake.file_asked.wait(20)
        fake.before_file.set()
        assert sorted(each.result(30).fetched for each in both) in ([False, True], [True, True])
    assert len(fake.downloads()) == len(split)
    assert Inventory(volume.root).leftovers() == ()


def test_one_hash_cannot_be_that_of_a_split_model(volume: _Volume, split: list[str]) -> None:
    with pytest.raises(ConfigError, match="MODEL_SHA256 is of one file"):
        volume.store().ensure(SPLIT, sha256="ab" * 32)


def test_a_split_model_in_a_cache_is_used_only_with_all_parts(
    volume: _Volume, split: list[str], tmp_path: Path
) -> None:
    snapshot = tmp_path / "cache" / "models--org--split" / "snapshots" / COMMIT
    shutil.copytree(tmp_path / "split", snapshot)
    store = volume.store(caches=[tmp_path / "cache"])
    assert store.ensure(SPLIT).path == snapshot / split[0]
    (snapshot / split[1]).unlink()
    assert store.ensure(SPLIT).path == volume.root / "models" / "org/split" / COMMIT / split[0]
