"""Real processes on one volume, fetching from a Hub on this machine."""

from __future__ import annotations

import contextlib
import hashlib
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.child_process import python
from tests.fake_hub import COMMIT, FakeHub
from tests.tiny_repository import NAME, REPO

pytestmark = pytest.mark.e2e


_ENSURE = """
import sys
from contextlib import closing
from pathlib import Path
from gguf_worker.models.source import Hub, parse_reference
from gguf_worker.models.store import Store
with closing(Hub(sys.argv[2], None)) as hub:
    root = Path(sys.argv[1])
    store = Store(root, {"hub": hub}, lambda progress: print(progress.done_bytes, flush=True))
    model = store.ensure(parse_reference(sys.argv[3]))
    print("fetched" if model.fetched else "found", flush=True)
"""


@contextlib.contextmanager
def _worker(volume: Path, hub: FakeHub) -> Iterator[subprocess.Popen[str]]:
    with python("-c", _ENSURE, str(volume), hub.url, f"{REPO}/{NAME}") as child:
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
