"""Real processes on one volume, fetching from a Hub on this machine."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

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
    store = Store(Path(sys.argv[1]), {"hub": hub}, lambda progress: print(progress.done_bytes, flush=True))
    model = store.ensure(parse_reference(sys.argv[3]))
    print("fetched" if model.fetched else "found", flush=True)
"""


@contextlib.contextmanager
def _worker(volume: Path, fake: FakeHub) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(
        [sys.executable, "-c", _ENSURE, str(volume), fake.url, f"{REPO}/{NAME}"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def _said(child: subprocess.Popen[str]) -> list[str]:
    out, _ = child.communicate(timeout=60)
    assert child.returncode == 0
    return out.split()


def _is_whole_or_absent(volume: Path, content: bytes) -> bool:
    """Is the file under its public name either not there, or complete?"""
    path = volume / "models" / REPO / COMMIT / NAME
    return not path.exists() or path.read_bytes() == content


def test_of_four_workers_that_start_at_once_one_downloads_and_all_have_the_model(
    tmp_path: Path, fake: FakeHub, content: bytes
) -> None:
    fake.bytes_per_second = len(content) / 2
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(_worker(tmp_path, fake)) for _ in range(4)]
        said = [_said(worker) for worker in workers]
    assert sorted(each[-1] for each in said) == ["fetched", "found", "found", "found"]
    assert fake.sent_bytes == len(content)
    assert len(fake.downloads()) == 1
    for lines in said:  # who waits sees how far the other is
        assert any(0 < int(done) < len(content) for done in lines[:-1])


def test_a_worker_killed_at_any_moment_leaves_what_the_next_one_completes(
    tmp_path: Path, fake: FakeHub, content: bytes
) -> None:
    seconds = 4.0
    fake.bytes_per_second = len(content) / seconds
    moments = random.Random(5)
    for _ in range(20):
        with _worker(tmp_path, fake) as child:
            assert child.stdout is not None
            time.sleep(0.3 + moments.uniform(0, 2 * seconds / 20))  # 0.3: the interpreter's start
            child.kill()
            child.wait()
        assert _is_whole_or_absent(tmp_path, content)
    with _worker(tmp_path, fake) as child:
        assert _said(child)[-1] in ("fetched", "found")
    path = tmp_path / "models" / REPO / COMMIT / NAME
    assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(content).digest()
    twice = fake.sent_bytes / len(content) - 1
    print(f"{twice:.2%} of the bytes were sent twice, in {len(fake.downloads())} downloads")
    assert twice < 0.05
