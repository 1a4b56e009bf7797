from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gguf_worker.models.store import usage_marks as module
from gguf_worker.models.store.lease import process_identity
from gguf_worker.models.store.usage_marks import EXPIRY_SECONDS, UsageMark, in_use, last_used
from tests.child_process import python
from tests.waiting import until

ELSEWHERE = {"machine": "another", "host": "elsewhere", "pid": 1, "began": "1"}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF")
    os.utime(path, (1000, 1000))
    return path


def _mark(model: Path, identity: Mapping[str, Any], *, age: float = 0) -> Path:
    """A mark as a process of that identity would have left it."""
    mark = model.with_name(f"{model.name}.use.{identity['pid']}-{identity['began']}")
    mark.write_text(json.dumps(identity))
    then = time.time() - age
    os.utime(mark, (then, then))
    return mark


def _names(model: Path) -> set[str]:
    return {path.name for path in model.parent.iterdir()}


def test_a_model_is_in_use_from_begin_to_close_and_its_last_use_stays_known(model: Path) -> None:
    assert (in_use(model), last_used(model)) == (False, 1000)
    use = UsageMark(model)
    use.begin()
    assert in_use(model)
    use.close()
    use.close()
    assert not in_use(model)
    assert time.time() - last_used(model) < 60


def test_two_uses_of_one_process_end_each_on_its_own(model: Path) -> None:
    first, second = UsageMark(model), UsageMark(model)
    first.begin()
    second.begin()
    first.close()
    assert in_use(model)
    second.close()
    assert not in_use(model)


def test_what_a_process_used_again_and_again_has_one_mark_at_most_that_counts_no_more(
    model: Path,
) -> None:
    for _ in range(3):
        use = UsageMark(model)
        use.begin()
        use.close()
    assert sum(".use." in name for name in _names(model)) == 1


def test_a_use_that_never_began_can_be_closed(model: Path) -> None:
    UsageMark(model).close()
    assert _names(model) == {"m.gguf"}


def test_the_mark_of_an_ended_process_of_this_machine_does_not_count(model: Path) -> None:
    _mark(model, process_identity() | {"began": "1"})
    assert not in_use(model)


def test_a_killed_process_uses_a_model_no_more(model: Path) -> None:
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from gguf_worker.models.store.usage_marks import UsageMark\n"
        "UsageMark(Path(sys.argv[1])).begin(); print('begun', flush=True); time.sleep(60)"
    )
    with python("-c", code, str(model)) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "begun\n"
        assert in_use(model)
    assert not in_use(model)


@pytest.mark.parametrize(("age", "counts"), [(0, True), (500, True), (700, False)])
def test_a_mark_of_another_machine_counts_for_ten_minutes(
    model: Path, age: float, counts: bool
) -> None:
    _mark(model, ELSEWHERE, age=age)
    assert in_use(model) is counts
    assert _names(model) == {"m.gguf", "m.gguf.use.1-1"}  # asking left nothing


def test_time_is_the_file_servers_and_not_this_machines(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _mark(model, ELSEWHERE)
    later = time.time() + 1e10
    monkeypatch.setattr(time, "time", lambda: later)
    assert in_use(model)


def test_an_unreadable_mark_counts_by_its_time_alone(model: Path) -> None:
    mark = _mark(model, ELSEWHERE)
    mark.write_text("{")
    assert in_use(model)
    then = time.time() - EXPIRY_SECONDS - 60
    os.utime(mark, (then, then))
    assert not in_use(model)


def test_a_new_user_takes_away_the_marks_that_count_no_more_and_no_others(model: Path) -> None:
    _mark(model, ELSEWHERE | {"pid": 2}, age=700)
    _mark(model, ELSEWHERE | {"pid": 3, "over": True})
    _mark(model, ELSEWHERE | {"pid": 4})
    use = UsageMark(model)
    use.begin()
    use.close()
    marks = sorted(name for name in _names(model) if ".use." in name)
    assert len(marks) == 2
    assert "m.gguf.use.4-1" in marks


def test_a_mark_is_written_again_as_long_as_the_model_is_used(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.01)
    use = UsageMark(model)
    use.begin()
    (mark,) = (path for path in model.parent.iterdir() if ".use." in path.name)
    os.utime(mark, (1, 1))
    until(lambda: mark.stat().st_mtime > 1000)
    use.close()


def test_a_mark_that_was_taken_away_is_made_again(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.01)
    use = UsageMark(model)
    use.begin()
    for path in model.parent.iterdir():
        if ".use." in path.name:
            path.unlink()
    until(lambda: in_use(model))
    use.close()


def test_a_mark_that_cannot_be_read_now_counts(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a model that is in use could be removed because a disk hiccups."""
    mark = _mark(model, {**ELSEWHERE, "over": True})
    assert not in_use(model)
    read = Path.read_bytes

    def stale(path: Path) -> bytes:
        if path == mark:
            raise OSError(errno.ESTALE, "Stale file handle")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", stale)
    assert in_use(model)
