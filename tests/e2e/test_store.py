"""Real processes on one volume, fetching from a Hub on this machine."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.child_process import python
from tests.fake_hub import COMMIT, FakeHub
from tests.tiny_repository import NAME, REPO
from tests.waiting import until

pytestmark = pytest.mark.e2e


_ENSURE = """
import sys
from contextlib import closing
from pathlib import Path
from gguf_worker.models.source import Hub, parse_reference
from gguf_worker.models.store import PieceSizes, Store
piece = int(sys.argv[4])
sizes = PieceSizes(least_file=piece, least=piece, most=piece, least_split=piece)
with closing(Hub(sys.argv[2], None)) as hub:
    root = Path(sys.argv[1])
    report = lambda progress: print(progress.done_bytes, flush=True)
    store = Store(root, {"hub": hub}, report, sizes=sizes)
    model = store.ensure(parse_reference(sys.argv[3]))
    print("fetched" if model.fetched else "found", flush=True)
"""


@contextlib.contextmanager
def _worker(volume: Path, hub: FakeHub, piece: int = 1 << 26) -> Iterator[subprocess.Popen[str]]:
    """Run a worker; `piece`: bytes of the pieces, of which smaller files have one."""
    with python("-c", _ENSURE, str(volume), hub.url, f"{REPO}/{NAME}", str(piece)) as child:
        yield child


def _said(child: subprocess.Popen[str]) -> list[str]:
    out, _ = child.communicate(timeout=60)
    assert child.returncode == 0
    return out.split()


def _is_whole_or_absent(volume: Path, model_bytes: bytes) -> bool:
    """Return whether the file under its public name is either missing or complete."""
    path = volume / "models" / REPO / COMMIT / NAME
    return not path.exists() or path.read_bytes() == model_bytes


def test_of_four_workers_that_start_at_once_one_downloads_and_all_have_the_model(
    tmp_path: Path, fake_hub: FakeHub, model_bytes: bytes
) -> None:
    fake_hub.bytes_per_second = len(model_bytes) / 2
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(_worker(tmp_path, fake_hub)) for _ in range(4)]
        said = [_said(worker) for worker in workers]
    assert sorted(each[-1] for each in said) == ["fetched", "found", "found", "found"]
    assert fake_hub.sent_bytes == len(model_bytes)
    assert len(fake_hub.downloads()) == 1
    for lines in said:  # those that wait see the progress of the one that downloads
        assert any(0 < int(done) < len(model_bytes) for done in lines[:-1])


def test_a_worker_killed_at_any_moment_leaves_what_the_next_one_completes(
    tmp_path: Path, fake_hub: FakeHub, model_bytes: bytes
) -> None:
    seconds = 4.0
    fake_hub.bytes_per_second = len(model_bytes) / seconds
    moments = random.Random(5)
    for _ in range(20):
        with _worker(tmp_path, fake_hub) as child:
            assert child.stdout is not None
            # Any moment, after about 0.3 s for the interpreter's start.
            time.sleep(0.3 + moments.uniform(0, 2 * seconds / 20))
            child.kill()
            child.wait()
        assert _is_whole_or_absent(tmp_path, model_bytes)
    with _worker(tmp_path, fake_hub) as child:
        assert _said(child)[-1] in ("fetched", "found")
    path = tmp_path / "models" / REPO / COMMIT / NAME
    assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(model_bytes).digest()
    twice = fake_hub.sent_bytes / len(model_bytes) - 1
    print(f"{twice:.2%} of the bytes were sent twice, in {len(fake_hub.downloads())} downloads")
    assert twice < 0.05


def test_a_worker_killed_with_many_ranges_leaves_what_it_has_noted(
    tmp_path: Path, fake_hub: FakeHub, model_bytes: bytes
) -> None:
    piece = len(model_bytes) // 40
    for _ in range(3):
        fake_hub.bytes_per_second = len(model_bytes) / 16 / 16  # the whole takes 16 seconds
        with _worker(tmp_path, fake_hub, piece) as child:
            noted = _noted(tmp_path)
            until(partial(_has_noted_more_than, noted, tmp_path))
            child.kill()
            child.wait()
        assert _is_whole_or_absent(tmp_path, model_bytes)
    fake_hub.bytes_per_second = None
    fake_hub.sent_bytes = 0
    missing = len(model_bytes) - _noted(tmp_path)
    with _worker(tmp_path, fake_hub, piece) as child:
        assert _said(child)[-1] == "fetched"
    path = tmp_path / "models" / REPO / COMMIT / NAME
    assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(model_bytes).digest()
    # What was on its way to a killed worker may be counted late.
    assert missing <= fake_hub.sent_bytes < missing + 2 * piece


def _has_noted_more_than(count: int, volume: Path) -> bool:
    return _noted(volume) > count


def _noted(volume: Path) -> int:
    """Return the bytes that a download's note says are there."""
    note = volume / "models" / REPO / COMMIT / f"{NAME}.part.json"
    there = json.loads(note.read_text()).get("there", []) if note.exists() else []
    return sum(end - start for start, end in there)
