from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import download
from benchmarks.download import COPY, HUGGINGFACE, MANY, ONE
from tests.paths import ROOT
from tests.tiny_gguf import write_tiny

pytestmark = pytest.mark.slow


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(download, "CACHE", tmp_path)
    return write_tiny(tmp_path / "tiny.gguf", vocabulary=32_000)


@pytest.mark.parametrize("contestant", [MANY, download.HTTPX, ONE, HUGGINGFACE])
def test_each_contestant_fetches_the_whole_file_from_the_loopback_hub(
    source: Path, tmp_path: Path, contestant: str
) -> None:
    target = tmp_path / "target"
    with download._hub(source, 0) as endpoint:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "benchmarks.programs.fetch"),
                *(contestant, endpoint, str(target), "0"),
            ],
            cwd=ROOT,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
    assert all(float(figure) > 0 for figure in done.stdout.split())
    (fetched,) = target.rglob("model.gguf")
    assert fetched.read_bytes() == source.read_bytes()


def test_a_limited_connection_gets_no_more_than_its_limit(source: Path) -> None:
    assert 0 < download._fetched(ONE, source, 5.0)[0] <= 5.0


def test_a_copy_leaves_nothing_behind(source: Path, tmp_path: Path) -> None:
    before = set(tmp_path.iterdir())
    assert download._copied(source)[0] > 0
    assert set(tmp_path.iterdir()) == before
    assert download.CONTESTANTS[-1] == COPY
