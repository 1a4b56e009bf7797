"""The store on file systems that are really full, or really read-only: small ones, made for each
test.
"""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from gguf_worker.errors import ConfigError, DiskFull
from gguf_worker.models.source import Hub
from gguf_worker.models.source.hub_reference import HubFile
from gguf_worker.models.store import Inventory, PieceSizes, Store, StoredModel
from tests.fake_hub import COMMIT, FakeHub
from tests.published import publish
from tests.tiny_gguf import write_tiny

FILE = HubFile("org/new", "new.gguf")
MEGABYTE = 1_000_000
OTHER = 30 * MEGABYTE


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """An empty file system of 64 MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(path)],
        capture_output=True,
        text=True,
    )
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.strip()}")
    yield path
    subprocess.run(["umount", str(path)], check=True)


@pytest.fixture(scope="module")
def model_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A model of 10 MB."""
    path = write_tiny(tmp_path_factory.mktemp("tiny") / "tiny.gguf", vocabulary=32_000)
    return path.read_bytes()


@pytest.fixture
def fake_hub(model_bytes: bytes) -> Iterator[FakeHub]:
    with FakeHub() as fake:
        fake.add(FILE.repo, FILE.file, model_bytes)
        yield fake


MANY = PieceSizes(connections=4, least_file=0, least=MEGABYTE, most=MEGABYTE)


def _ensure(
    disk: Path, fake: FakeHub, limit: int | None = None, sizes: PieceSizes | None = None
) -> StoredModel:
    with (
        closing(Hub(fake.url, None, timeout=5)) as hub,
        closing(
            Store(disk, {"hub": hub}, lambda progress: None, limit=limit, sizes=sizes)
        ) as store,
    ):
        return store.ensure(FILE)


def _take_all(disk: Path, *, but: int = 0) -> None:
    """Another writer leaves so many bytes."""
    path = disk / "another"
    try:
        with path.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
    except OSError:
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size - but)


class _Crowd:
    """Lets a download begin, and takes the disk's room before its bytes come."""

    def __init__(self, disk: Path, fake: FakeHub, *, but: int) -> None:
        fake.before_file.clear()

        def work() -> None:
            assert fake.file_asked.wait(20)
            _take_all(disk, but=but)
            fake.before_file.set()

        self._thread = threading.Thread(target=work)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._thread.join()


def test_a_disk_that_others_fill_meanwhile_gets_room_and_the_download_goes_on(
    disk: Path, fake_hub: FakeHub, model_bytes: bytes
) -> None:
    publish(disk, "org/old", "old.gguf", size=OTHER)
    with _Crowd(disk, fake_hub, but=5 * MEGABYTE):
        model = _ensure(disk, fake_hub, limit=10**9)
    assert model.path.read_bytes() == model_bytes
    assert [each.repo for each in Inventory(disk).models()] == ["org/new"]
    first, second = (seen.range for seen in fake_hub.downloads())
    assert first is None
    assert second is not None
    assert int(second.removeprefix("bytes=").removesuffix("-")) > 3 * MEGABYTE


def test_many_ranges_go_on_too_on_a_disk_that_others_fill_meanwhile(
    disk: Path, fake_hub: FakeHub, model_bytes: bytes
) -> None:
    publish(disk, "org/old", "old.gguf", size=OTHER)
    with _Crowd(disk, fake_hub, but=6 * MEGABYTE):
        model = _ensure(disk, fake_hub, limit=10**9, sizes=MANY)
    assert model.path.read_bytes() == model_bytes
    assert [each.repo for each in Inventory(disk).models()] == ["org/new"]
    assert fake_hub.sent_bytes < 2 * len(model_bytes)


@pytest.mark.parametrize("sizes", [None, MANY], ids=["one", "many"])
def test_without_a_limit_a_disk_that_fills_up_is_reported_and_keeps_no_part(
    disk: Path, fake_hub: FakeHub, sizes: PieceSizes | None
) -> None:
    old = publish(disk, "org/old", "old.gguf", size=OTHER)
    with (
        _Crowd(disk, fake_hub, but=5 * MEGABYTE),
        pytest.raises(DiskFull, match=r"org/old/old.gguf@1f1f\S+ \(30,000,000 bytes\)") as refused,
    ):
        _ensure(disk, fake_hub, sizes=sizes)
    assert "takes no more (No space left on device)" in str(refused.value)
    assert old.exists()
    assert not list(disk.rglob("*.part"))
    (disk / "another").unlink()
    assert _ensure(disk, fake_hub).fetched


def test_what_is_in_use_stays_on_a_disk_that_fills_up(disk: Path, fake_hub: FakeHub) -> None:
    old = publish(disk, "org/old", "old.gguf", size=OTHER)
    foreign = old.with_name("old.gguf.use.elsewhere-1-1")
    foreign.write_text('{"machine": "elsewhere", "pid": 1, "began": "1"}')
    with (
        _Crowd(disk, fake_hub, but=5 * MEGABYTE),
        pytest.raises(DiskFull, match="nothing else that no worker uses"),
    ):
        _ensure(disk, fake_hub, limit=10**9)
    assert old.exists()


def test_a_disk_without_a_single_byte_gets_room_before_the_download(
    disk: Path, fake_hub: FakeHub, model_bytes: bytes
) -> None:
    publish(disk, "org/old", "old.gguf", size=OTHER)
    _take_all(disk)
    with pytest.raises(DiskFull, match="No worker uses org/old/old"):
        _ensure(disk, fake_hub)
    assert fake_hub.downloads() == []
    assert _ensure(disk, fake_hub, limit=10**9).path.read_bytes() == model_bytes
    assert [each.repo for each in Inventory(disk).models()] == ["org/new"]


def test_a_stored_model_is_used_on_a_full_disk(disk: Path, fake_hub: FakeHub) -> None:
    assert _ensure(disk, fake_hub).fetched
    _take_all(disk)
    assert not _ensure(disk, fake_hub).fetched


def test_a_stored_model_is_used_on_a_read_only_volume_with_a_warning(
    disk: Path, fake_hub: FakeHub, caplog: pytest.LogCaptureFixture
) -> None:
    first = _ensure(disk, fake_hub)
    for mark in disk.rglob("*.use.*"):
        mark.unlink()
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    found = _ensure(disk, fake_hub)
    assert (found.path, found.fetched) == (first.path, False)
    assert "is in use, so others may remove it: Read-only file system" in caplog.text


def test_nothing_is_fetched_to_a_read_only_volume(disk: Path, fake_hub: FakeHub) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(ConfigError, match="cannot be written") as refused:
        _ensure(disk, fake_hub)
    assert refused.value.param == "VOLUME_PATH"
    assert fake_hub.downloads() == []
    assert not (disk / "models" / FILE.repo / COMMIT).exists()
