"""What the end-to-end tests start: the demo model, the job API, and workers from outside."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from builder.demo_model import ensure
from tests.fake_runpod import FakeRunPod, Worker
from tests.http_worker import Served, http_worker

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
