from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from gguf_worker.models.store.read_ahead import ReadAhead, is_far

MB = 1 << 20
MOUNTS = """\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
25 22 0:23 / /dev/shm rw - tmpfs tmpfs rw
30 22 0:40 / /runpod-volume rw,relatime shared:1 - fuse mfs#host:9421 rw
31 30 0:41 / /runpod-volume/cache rw - ext4 /dev/vdb rw
32 22 0:42 / /mnt/my\\040volume rw - nfs4 host:/export rw
33 22 0:43 / /two rw - nfs4 host:/export rw
34 22 0:44 / /two rw - xfs /dev/vdc rw
"""


class Reads:
    """The reads of files that all count as far away."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.found: list[tuple[int, int]] = []
        self.changed = threading.Condition()
        real = os.preadv

        def preadv(descriptor: int, buffers: list[bytearray], offset: int) -> int:
            count = real(descriptor, buffers, offset)
            with self.changed:
                self.found.append((offset, count))
                self.changed.notify_all()
            return count

        monkeypatch.setattr(os, "preadv", preadv)

    def wait_for(self, pieces: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.found) >= pieces, 10)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    return Reads(monkeypatch)


def _files(folder: Path, *sizes: int) -> list[Path]:
    paths = [folder / f"{number}.gguf" for number in range(len(sizes))]
    for path, size in zip(paths, sizes, strict=True):
        path.touch()
        os.truncate(path, size)
    return paths


def test_every_byte_of_files_that_are_far_is_read_once(tmp_path: Path, reads: Reads) -> None:
    paths = _files(tmp_path, 3 * MB + 5, MB, 7)
    ahead = ReadAhead(paths, window=100 * MB, far=lambda path: path.name != "1.gguf")
    ahead.wait()
    assert sorted(reads.found) == [(0, 7), (0, MB), (MB, MB), (2 * MB, MB), (3 * MB, 5)]
    assert ahead._threads
    ahead.close()


def test_files_that_are_near_are_left_to_their_reader(tmp_path: Path, reads: Reads) -> None:
    ahead = ReadAhead(_files(tmp_path, MB), window=MB, far=lambda path: False)
    ahead.reached(0.5)
    ahead.wait()
    ahead.close()
    assert reads.found == []


def test_no_more_than_the_window_is_ahead_of_the_reader(tmp_path: Path, reads: Reads) -> None:
    ahead = ReadAhead(_files(tmp_path, 8 * MB), window=2 * MB, far=lambda path: True)
    reads.wait_for(2)
    assert sorted(reads.found) == [(0, MB), (MB, MB)]
    ahead.reached(0.5)
    reads.wait_for(6)
    assert max(reads.found) == (5 * MB, MB)
    ahead.reached(1.0)
    ahead.wait()
    assert len(reads.found) == 8


def test_once_closed_nobody_reads_on(tmp_path: Path, reads: Reads) -> None:
    ahead = ReadAhead(_files(tmp_path, 8 * MB), window=MB, far=lambda path: True)
    reads.wait_for(1)
    ahead.close()
    ahead.wait()
    assert reads.found == [(0, MB)]


def test_a_file_that_cannot_be_read_is_its_readers_business(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError("gone")

    monkeypatch.setattr(os, "preadv", refuse)
    ReadAhead(_files(tmp_path, MB), window=MB, far=lambda path: True).wait()


@pytest.mark.parametrize(
    ("path", "far"),
    [
        ("/models/a.gguf", False),
        ("/dev/shm/a.gguf", False),
        ("/runpod-volume/gguf-worker/a.gguf", True),
        ("/runpod-volumes/a.gguf", False),
        ("/runpod-volume/cache/a.gguf", False),
        ("/mnt/my volume/a.gguf", True),
        ("/two/a.gguf", False),
    ],
)
def test_the_file_system_says_what_is_far(tmp_path: Path, path: str, far: bool) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    assert is_far(Path(path), mounts) is far


def test_what_the_kernel_does_not_say_counts_as_near(tmp_path: Path) -> None:
    assert not is_far(Path("/a"), tmp_path / "none")
    (tmp_path / "mountinfo").write_text("nonsense\n\n")
    assert not is_far(Path("/a"), tmp_path / "mountinfo")


def test_files_that_cannot_be_looked_at_are_left_to_the_reader(tmp_path: Path) -> None:
    """It reports what is wrong with them."""

    def stale(path: Path) -> bool:
        raise OSError(errno.ESTALE, "Stale file handle")

    for far in (stale, lambda path: True):
        ahead = ReadAhead([tmp_path / "gone"], window=1 << 20, far=far)
        ahead.wait()
        ahead.close()
