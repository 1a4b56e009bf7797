from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from gguf_worker.models.store import lease as module
from gguf_worker.models.store.lease import Lease, LeaseLost, process_identity, process_lives
from tests.child_process import python
from tests.fakes import FakeClock
from tests.waiting import until

ELSEWHERE = {"machine": "another", "host": "elsewhere", "pid": 1, "began": "1"}

_HOLD = """
import sys, time
from pathlib import Path
from gguf_worker.models.store import lease as module
module.BEAT_SECONDS = float(sys.argv[2])
lease = module.Lease(Path(sys.argv[1]))
lease.acquire()
lease.note({"done": 5})
print("held", flush=True)
time.sleep(60)
"""

_HOLDERS_BEAT = 0.02
"""Seconds between two signs of life of that process."""

_COUNT = """
import sys
from pathlib import Path
from gguf_worker.models.store.lease import Lease
count = Path(sys.argv[2])
for _ in range(int(sys.argv[3])):
    with Lease(Path(sys.argv[1]), sleep=lambda seconds: None):
        value = int(count.read_text())
        count.write_text(str(value + 1))
"""


def _clock() -> FakeClock:
    return FakeClock(start=0.0)


def _lease(
    path: Path,
    clock: FakeClock,
    *,
    silence: float = 20,
    after_sleep: Callable[[float], None] = lambda now: None,
    **options: Any,
) -> Lease:
    """A lease for which time passes in its sleeps only; after each, `after_sleep` gets the time."""

    def sleep(seconds: float) -> None:
        clock.advance(seconds)
        assert clock.time < 1000, "waits for ever"
        after_sleep(clock.time)

    return Lease(path, now=clock, sleep=sleep, silence=silence, **options)


def _left_behind(path: Path, identity: Mapping[str, Any], beat: int = 1) -> None:
    """A lock file as a holder of that identity would have left it."""
    text = json.dumps({**identity, "beat": beat, "note": {}})
    path.with_name(f"{path.name}.7").write_text(text)


@contextlib.contextmanager
def _holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has the lease."""
    with python("-c", _HOLD, str(path), str(_HOLDERS_BEAT)) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        yield child


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.lock"


def _files(path: Path) -> set[str]:
    return {each.name for each in path.parent.iterdir()}


def test_a_free_lease_is_had_at_once_and_leaves_one_small_file(path: Path) -> None:
    clock = _clock()
    for number in (1, 2, 3):
        with _lease(path, clock) as lease:
            lease.check()
        assert _files(path) == {f"model.lock.{number}"}
    assert clock.time == 0


def test_a_lease_can_be_released_before_it_was_had_and_twice(path: Path) -> None:
    lease = Lease(path)
    lease.release()
    with lease:
        lease.release()
    with Lease(path):
        pass


def test_one_process_at_a_time_has_the_lease(path: Path, tmp_path: Path) -> None:
    count = tmp_path / "count"
    count.write_text("0")
    with contextlib.ExitStack() as stack:
        children = [
            stack.enter_context(python("-c", _COUNT, str(path), str(count), "50")) for _ in range(4)
        ]
        assert [child.wait(60) for child in children] == [0, 0, 0, 0]
    assert count.read_text() == "200"
    assert _files(path) == {"count", "model.lock.200"}


def test_a_process_that_waits_gets_the_lease_when_it_is_released(path: Path) -> None:
    first = Lease(path)
    first.acquire()
    clock = _clock()

    def live(now: float) -> None:
        if now >= 100:
            first.release()

    with _lease(path, clock, silence=900, after_sleep=live):
        assert clock.time == 100


def test_a_process_that_waits_sees_the_holders_notes(path: Path) -> None:
    notes: list[Mapping[str, Any]] = []
    noticed = threading.Event()

    def waiting(note: Mapping[str, Any]) -> None:
        notes.append(note)
        if note:
            noticed.set()

    with _holder(path) as child, ThreadPoolExecutor() as pool:
        lease = Lease(path, waiting=waiting, sleep=lambda seconds: time.sleep(0.02))
        got = pool.submit(lease.acquire)
        assert noticed.wait(20)
        assert notes[-1] == {"done": 5}
        child.kill()
        got.result(20)
        lease.release()


def test_the_lease_of_a_killed_process_of_this_machine_is_taken_over_at_once(path: Path) -> None:
    with _holder(path) as child:
        child.send_signal(signal.SIGKILL)
        child.wait()
        clock = _clock()
        with _lease(path, clock) as lease:
            lease.check()
        assert clock.time == 0


def test_the_lease_of_another_machine_is_taken_over_after_silence(path: Path) -> None:
    _left_behind(path, ELSEWHERE)
    clock = _clock()
    with _lease(path, clock) as lease:
        lease.check()
        assert 20 <= clock.time <= 22


def test_a_holder_on_another_machine_that_gives_signs_of_life_keeps_the_lease(path: Path) -> None:
    beats = iter(range(2, 1000))

    def live(now: float) -> None:
        if now < 500:
            _left_behind(path, ELSEWHERE, next(beats))

    _left_behind(path, ELSEWHERE)
    clock = _clock()
    with _lease(path, clock, after_sleep=live):
        assert 518 <= clock.time <= 522


def test_a_process_killed_before_its_first_sign_of_life_keeps_nobody_out(path: Path) -> None:
    path.with_name("model.lock.1").touch()
    clock = _clock()
    with _lease(path, clock):
        assert 20 <= clock.time <= 22


def test_a_lock_file_that_is_not_readable_keeps_nobody_out(path: Path) -> None:
    path.with_name("model.lock.1").write_bytes(b"\xff[[[")
    with _lease(path, _clock()) as lease:
        lease.check()


def test_a_process_id_that_was_given_again_is_not_the_holder(path: Path) -> None:
    _left_behind(path, process_identity() | {"began": "1"})
    clock = _clock()
    with _lease(path, clock):
        assert clock.time == 0


def test_the_holders_own_machine_sees_that_it_lives_however_silent_it_is_for_a_while(
    path: Path,
) -> None:
    _left_behind(path, process_identity())
    clock = _clock()
    with _lease(path, clock):  # silence counts in the end: its threads may be stuck for good
        assert clock.time >= 20


def test_a_holder_that_was_taken_over_notices_and_leaves_the_lease_to_the_other(path: Path) -> None:
    with _lease(path, _clock()) as first:
        second = _lease(path, _clock(), alive=lambda identity: False)
        second.acquire()
        with pytest.raises(LeaseLost):
            first.check()
        first.release()
        second.check()
        second.release()
    assert _files(path) == {"model.lock.2"}


def test_a_stopped_holder_that_wakes_up_does_not_disturb_the_next_one(path: Path) -> None:
    with _holder(path) as child:
        child.send_signal(signal.SIGSTOP)
        with _lease(path, _clock()) as lease:
            child.send_signal(signal.SIGCONT)
            time.sleep(5 * _HOLDERS_BEAT)  # time for what must not happen
            lease.check()
            assert _files(path) == {"model.lock.2"}


def test_of_many_that_find_a_dead_holder_one_has_the_lease_at_a_time(path: Path) -> None:
    inside, most, entered = 0, 0, 0
    lock = threading.Lock()

    def work() -> None:
        nonlocal inside, most, entered
        with Lease(path, sleep=lambda seconds: time.sleep(0.001)):
            with lock:
                inside += 1
                entered += 1
                most = max(most, inside)
            time.sleep(0.002)
            with lock:
                inside -= 1

    for _ in range(20):
        _left_behind(path, process_identity() | {"began": "1"})
        with ThreadPoolExecutor(8) as pool:
            for future in [pool.submit(work) for _ in range(8)]:
                future.result(30)
    assert (most, entered) == (1, 160)
    assert len(_files(path)) == 1


def test_a_process_that_takes_a_number_too_late_does_not_have_the_lease(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _left_behind(path, process_identity() | {"began": "1"})
    third = Lease(path)
    real = os.open

    def slow(file: Path, *rest: int) -> int:
        """Let another have number 8 before this one makes it, while a third holds 9."""
        monkeypatch.setattr(os, "open", real)
        with Lease(path):
            pass
        third.acquire()
        return real(file, *rest)

    monkeypatch.setattr(os, "open", slow)
    clock = _clock()

    def live(now: float) -> None:
        if now >= 100:
            third.release()

    with _lease(path, clock, silence=900, after_sleep=live) as lease:
        assert clock.time == 100
        lease.check()
    assert _files(path) == {"model.lock.10"}


def test_a_disk_without_room_leaves_no_lease_that_nobody_has(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space left"):
            Lease(path).acquire()
    assert not _files(path)
    with Lease(path):
        pass


def test_a_sign_of_life_that_cannot_be_written_is_tried_again(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.01)
    real, failed = os.pwrite, threading.Event()

    def once(descriptor: int, data: bytes, offset: int) -> int:
        if not failed.is_set():
            failed.set()
            raise OSError(5, "Input/output error")
        return real(descriptor, data, offset)

    with Lease(path) as lease:
        monkeypatch.setattr(os, "pwrite", once)
        assert failed.wait(10)
        file = path.with_name("model.lock.1")
        before = file.read_bytes()
        until(lambda: file.read_bytes() != before)
        lease.check()
    assert "cannot write" in caplog.text


def test_this_process_lives_and_one_that_has_ended_does_not() -> None:
    assert process_lives(process_identity())
    assert not process_lives({"pid": 2**22 + 1, "began": "1"})
    assert not process_lives({})
