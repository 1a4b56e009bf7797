"""What the end-to-end tests start: the demo model, the job API, and workers from outside."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from builder.demo_model import ensure
from tests.fake_hub import FakeHub
from tests.fake_runpod import FakeRunPod, Worker
from tests.http_worker import Served, http_worker
from tests.tiny_gguf import write_tiny
from tests.tiny_repository import tiny_hub

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """The demo model's path; fetched where it is not there yet."""
    path = ROOT / ".cache" / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    ensure(path)
    return path


@pytest.fixture(scope="module")
def served(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A worker over HTTP with the demo model, for all tests that leave it as it was."""
    log = tmp_path_factory.mktemp("http") / "log"
    with http_worker(demo_model, log, MAX_CONCURRENCY="8", SERVED_MODEL_NAME="demo") as served:
        yield served


@pytest.fixture(scope="session")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A model's file of 42 MB, of which the header is 7."""
    path = write_tiny(tmp_path_factory.mktemp("tiny") / "tiny.gguf", vocabulary=150_000)
    return path.read_bytes()


@pytest.fixture
def fake(content: bytes) -> Iterator[FakeHub]:
    """A Hub that has it."""
    with tiny_hub(content) as fake:
        yield fake


@pytest.fixture
def runpod_api() -> Iterator[FakeRunPod]:
    with FakeRunPod() as api:
        yield api


@pytest.fixture
def worker(
    runpod_api: FakeRunPod, demo_model: Path, tmp_path: Path
) -> Iterator[Callable[..., Worker]]:
    """Starts `python handler.py ARGUMENTS` with settings as environment variables.

    On the queue (`queue=True`) it comes back polling; otherwise it has just been started, as a
    developer would: no variable of the platform is set.
    """
    started: list[Worker] = []

    def start(*arguments: str, queue: bool = True, **settings: str) -> Worker:
        home = tmp_path / f"home{len(started)}"
        home.mkdir()
        platform = runpod_api.environment(home) if queue else {"HOME": str(home)}
        worker = Worker(
            {**platform, "MODEL": str(demo_model), **settings},
            log=home / "worker.log",
            cwd=ROOT,
            command=[sys.executable, "-u", "handler.py", *arguments],
        )
        started.append(worker)
        if queue:
            worker.wait_polling(runpod_api)
        return worker

    yield start
    for worker in started:
        worker.close()
