"""A worker whose model is on the Hub: fetched at its first start, and found there at the next."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fake_hub import FakeHub
from tests.local_server import Cut, Flip, spoiled
from tests.paths import DEMO_MODEL, ROOT

pytestmark = pytest.mark.e2e

JOB = '{"input": {"prompt": "1, 2, 3, 4,", "max_tokens": 8, "temperature": 0}}'
FILE = DEMO_MODEL.name


def start(endpoint: str, volume: Path) -> subprocess.CompletedProcess[str]:
    """Run `python handler.py` on one job, with the model of the fake Hub."""
    settings = {"MODEL": "demo/sea-GGUF:q4_1", "HF_ENDPOINT": endpoint, "VOLUME_PATH": str(volume)}
    return subprocess.run(
        [sys.executable, "handler.py", "--test_input", JOB],
        cwd=ROOT,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_model_is_fetched_once_and_later_starts_do_without_the_hub(
    demo_model: Path, tmp_path: Path
) -> None:
    with FakeHub() as hub:
        hub.add("demo/sea-GGUF", FILE, demo_model.read_bytes())
        hub.misbehave("file", Cut(3_000_000))
        first = start(hub.url, tmp_path)
        endpoint = hub.url
        # One request for facts, then two for the file, whose first piece was cut off once.
        assert [seen.path.split("/")[1] for seen in hub.requests if seen.host == "hub"] == [
            "api", "demo", "demo",
        ]  # fmt: skip
    assert first.returncode == 0, first.stderr
    assert "5, 6, 7" in first.stdout
    assert re.search(rf"{re.escape(FILE)}.* 100 %", first.stderr), "it shows its progress"
    (published,) = tmp_path.rglob("*.gguf")
    assert published.stat().st_size == demo_model.stat().st_size
    assert list(tmp_path.rglob("*.part")) == []

    second = start(endpoint, tmp_path)
    assert second.returncode == 0, second.stderr
    assert second.stdout == first.stdout
    assert "100 %" not in second.stderr


def test_a_model_that_arrives_altered_is_never_published(demo_model: Path, tmp_path: Path) -> None:
    with FakeHub() as hub:
        content = demo_model.read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        altered = spoiled(content, Flip(50_000_000))
        hub.add("demo/sea-GGUF", FILE, altered, claimed_sha256=sha256)
        done = start(hub.url, tmp_path)
    assert done.returncode == 1
    assert '"code": "model_corrupt"' in done.stderr
    assert list(tmp_path.rglob("*.gguf")) == []
