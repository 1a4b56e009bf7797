"""Workers that are started from outside, the job API that they ask, and clients."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import openai
import pytest

from tests.fake_runpod import FakeRunPod, Worker
from tests.http_worker import Served, http_worker
from tests.paths import ROOT


@pytest.fixture(scope="module")
def served(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Start a worker over HTTP with the demo model, for all tests that leave it as it was."""
    log = tmp_path_factory.mktemp("http") / "log"
    with http_worker(demo_model, log, MAX_CONCURRENCY="8", SERVED_MODEL_NAME="demo") as served:
        yield served


@pytest.fixture(scope="session")
def model_bytes(wide_model: Path) -> bytes:
    """Return a file that takes a while to fetch."""
    return wide_model.read_bytes()


@pytest.fixture
def client(served: Served) -> Iterator[openai.OpenAI]:
    """Open the official client on the worker of `served`."""
    with served.client() as client:
        yield client


@pytest.fixture
def runpod_api() -> Iterator[FakeRunPod]:
    """Start a fake of RunPod's job API."""
    with FakeRunPod() as api:
        yield api


@pytest.fixture
def worker(
    runpod_api: FakeRunPod, demo_model: Path, tmp_path: Path
) -> Iterator[Callable[..., Worker]]:
    """Return a function that starts `python handler.py ARGUMENTS` with settings as variables.

    On the queue (`queue=True`) the worker polls when the function returns. Otherwise it has only
    been started, as by a developer: no variable of the platform is set.
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
