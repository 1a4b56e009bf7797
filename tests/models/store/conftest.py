"""A volume, a Hub of this machine with one model, and new stores on the volume."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from gguf_worker.errors import DownloadFailed
from gguf_worker.models.gguf.splits import parts_of
from gguf_worker.models.source import Hub
from gguf_worker.models.source.hub_reference import HubFile, HubQuant
from gguf_worker.models.store import PieceSizes, Progress, Store, lease
from gguf_worker.models.store.entry import Check
from tests.fake_hub import COMMIT, FakeHub
from tests.tiny_gguf import write_tiny
from tests.tiny_repository import NAME, REPO

FILE = HubFile(REPO, NAME)
NEWER = "2e" * 20
"""A later commit of the repository."""
SPLIT = HubQuant("org/split", "Q8_0")


@pytest.fixture
def quick_leases(monkeypatch: pytest.MonkeyPatch) -> float:
    """Have leases of this process show signs of life, and look for them, every few milliseconds.

    Returns the seconds between two.
    """
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.02)
    return lease.BEAT_SECONDS


class Volume:
    """A volume, and new stores on it as new workers would have them."""

    def __init__(self, root: Path, fake: FakeHub) -> None:
        self.root = root
        self.folder = root / "models" / REPO / COMMIT
        self.model = self.folder / NAME
        self.progress: list[Progress] = []
        self.slept: list[float] = []
        """The seconds that were waited between tries, without really waiting."""
        self._fake = fake
        self._hubs: list[Hub] = []
        self._stores: list[Store] = []

    def store(
        self,
        *,
        endpoint: str | None = None,
        caches: Sequence[Path] = (),
        baked: Path | None = None,
        check: Check = "stamp",
        check_given: Check | None = None,
        limit: int | None = None,
        timeout: float = 5,
        offline: bool = False,
        sizes: PieceSizes | None = None,
    ) -> Store:
        hub = Hub(endpoint or self._fake.url, None, timeout=timeout, sleep=self.slept.append)
        self._hubs.append(hub)
        store = Store(
            self.root,
            {"hub": hub},
            self.progress.append,
            caches=caches,
            baked=baked,
            check=check,
            check_given=check_given,
            limit=limit,
            offline=offline,
            sizes=sizes,
        )
        self._stores.append(store)
        return store

    def names(self) -> set[str]:
        """Return the files of the commit's folder, but for locks and marks of use."""
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
def volume(tmp_path: Path, fake_hub: FakeHub) -> Iterator[Volume]:
    volume = Volume(tmp_path / "volume", fake_hub)
    yield volume
    volume.close()


class HeldRanges:
    """The ranges of a file that is at hand.

    `fails_at`: a range with this byte fails; `stall_at`: all stay silent from here until `close`,
    `stall_once_at`: the first that comes there.
    """

    whole = False

    def __init__(
        self,
        content: bytes,
        fails_at: int | None = None,
        *,
        stall_at: int | None = None,
        stall_once_at: int | None = None,
    ) -> None:
        self.asked: list[int] = []
        self.sent = 0
        self.closed = threading.Event()
        self._content = content
        self._fails_at = fails_at
        self._stall_at = stall_at
        self._stalls = [] if stall_once_at is None else [stall_once_at]
        self._lock = threading.Lock()

    def slot(self) -> AbstractContextManager[None]:
        return nullcontext()

    def range(self, at: int, end: Callable[[], int]) -> Iterator[bytes]:
        with self._lock:
            self.asked.append(at)
        while at < (stop := min(at + 64, end())):
            if self._fails_at is not None and at <= self._fails_at < stop:
                raise DownloadFailed("as if")
            if self._stall_at is not None and at >= self._stall_at:
                assert self.closed.wait(20)
            with self._lock:
                stalled = bool(self._stalls) and at <= self._stalls[0] < stop
                if stalled:
                    self._stalls.clear()
            if stalled:
                assert self.closed.wait(20)
            with self._lock:
                self.sent += stop - at
            yield self._content[at:stop]
            at = stop

    def close(self) -> None:
        self.closed.set()


PUBLISHED = {NAME, f"{NAME}.json"}


def sha256_of(content: bytes) -> str:
    """Return the sha256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def leave_part(volume: Volume, data: bytes, **note: object) -> None:
    """Leave a download of FILE as a killed worker would: its bytes so far, and its note."""
    volume.folder.mkdir(parents=True)
    (volume.folder / f"{NAME}.part").write_bytes(data)
    (volume.folder / f"{NAME}.part.json").write_text(json.dumps(note))


def pretend_free(monkeypatch: pytest.MonkeyPatch, *amounts: int) -> None:
    """Have the disk say these free bytes, one after the other; the last for ever."""
    waiting = list(amounts)
    usage = shutil.disk_usage("/")

    def disk_usage(path: Path) -> object:
        free = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        return usage._replace(free=free)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)


@pytest.fixture
def split(tmp_path: Path, fake_hub: FakeHub) -> list[str]:
    """The names of a split model's parts on the Hub."""
    (tmp_path / "split").mkdir()
    first = write_tiny(tmp_path / "split" / "big-Q8_0.gguf", tensors_per_file=10)
    names = list(parts_of(first.name))
    for name in names:
        fake_hub.add("org/split", name, first.with_name(name).read_bytes())
    return names
