"""The entry: its modes, and what a failed start means. The SDK is in tests/e2e."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

import handler
from gguf_worker.app import App
from gguf_worker.config import Settings
from gguf_worker.errors import DownloadFailed, ModelCorrupt, StartError
from tests.fake_runpod import Worker
from tests.paths import ROOT


@pytest.fixture(autouse=True)
def sigterm_as_it_was() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


class Starting:
    """An App whose starts fail in turn with the given errors, then succeed."""

    def __init__(self, *errors: StartError) -> None:
        self.errors = list(errors)
        self.starts = 0

    def start(self) -> None:
        self.starts += 1
        if self.errors:
            raise self.errors.pop(0)


def start(app: Starting, *, retry: bool = True) -> tuple[StartError | None, list[float]]:
    pauses: list[float] = []
    return handler._start(app, retry, pauses.append), pauses  # type: ignore[arg-type]


def test_a_failure_that_may_pass_is_tried_again_with_growing_pauses() -> None:
    app = Starting(DownloadFailed("cut"), DownloadFailed("cut again"))
    assert start(app) == (None, list(handler.RETRY_SECONDS[:2]))
    assert app.starts == 3


def test_a_failure_that_does_not_pass_ends_the_worker_after_the_last_pause() -> None:
    errors = [DownloadFailed(f"cut {number}") for number in range(9)]
    app = Starting(*errors)
    problem, pauses = start(app)
    assert problem is errors[len(handler.RETRY_SECONDS)]
    assert pauses == list(handler.RETRY_SECONDS)
    assert pauses == sorted(pauses)


def test_a_server_that_said_when_to_come_again_is_not_asked_before() -> None:
    limited = [DownloadFailed("limited", retry_after=seconds) for seconds in (243.0, 2.0, 9e9)]
    app = Starting(*limited)
    pauses = [243.0, handler.RETRY_SECONDS[1], handler.LONGEST_PAUSE]
    assert start(app) == (None, pauses)


def test_a_permanent_failure_is_not_tried_again() -> None:
    broken = ModelCorrupt("cut")
    assert start(Starting(broken, broken)) == (broken, [])


def test_off_the_queue_nothing_is_tried_again() -> None:
    failure = DownloadFailed("cut")
    assert start(Starting(failure), retry=False) == (failure, [])


def test_help_names_every_mode_and_loads_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", str(ROOT / "handler.py"), "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    for word in ("--test_input", "--rp_serve_api", "WORKER_MODE=http"):
        assert word in done.stdout
    loaded = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert not loaded & {"runpod", "pydantic", "numpy", "gguf_worker.app"}


@pytest.mark.parametrize("setting", ["", "  "])
def test_an_empty_model_setting_counts_as_not_set(
    setting: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MODEL", setting)
    monkeypatch.setattr(handler, "DEMO_MODEL", tmp_path / "none.gguf")
    assert handler.main([]) == 2
    assert "MODEL is not set" in capsys.readouterr().err


def test_the_development_server_is_not_begun_without_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handler, "_import_sdk", lambda: None)
    monkeypatch.setattr(handler, "_run_sdk", lambda app: pytest.fail("it serves"))
    settings = Settings(model=str(tmp_path / "none.gguf"))
    assert handler._serve_jobs(settings, None, queue=False) == 1


def test_over_http_a_bug_in_the_start_ends_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would answer /ping as a starting worker for ever."""
    stopped = threading.Event()

    def start(app: App) -> None:
        raise RuntimeError("a bug")

    def serve(app: App) -> None:
        assert stopped.wait(10)

    monkeypatch.setattr(App, "start", start)
    monkeypatch.setattr(App, "serve_http", serve)
    monkeypatch.setattr(handler, "_stop_this_process", stopped.set)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert handler._serve_http(Settings(model="any")) == 1


@pytest.mark.parametrize(
    ("error", "pause"),
    [
        (DownloadFailed("limited", retry_after=243.0), 243.0),
        (DownloadFailed("cut"), 0.0),
        (ModelCorrupt("cut", retry_after=300.0), 0.0),
    ],
    ids=str,
)
def test_over_http_a_worker_that_a_rate_limit_ends_ends_when_it_is_over(
    error: StartError, pause: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one asks at once."""
    stopped = threading.Event()
    slept: list[float] = []

    def start(app: App) -> None:
        raise error

    def serve(app: App) -> None:
        assert stopped.wait(10)

    monkeypatch.setattr(App, "start", start)
    monkeypatch.setattr(App, "serve_http", serve)
    monkeypatch.setattr(handler, "_stop_this_process", stopped.set)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(time, "sleep", slept.append)
    assert handler._serve_http(Settings(model="any")) == 1
    assert slept == [pause]


def test_the_worker_does_not_interrupt_the_engine_that_wakes_it_and_the_engine_is_as_usual() -> (
    None
):
    code = (
        "import handler, os; from gguf_worker.engine import __main__ as engine; "
        "handler._yield_to_the_engine(); print(os.sched_getscheduler(0) == os.SCHED_BATCH); "
        "engine._restore_scheduling(); print(os.sched_getscheduler(0) == os.SCHED_OTHER)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.stdout.split() == ["True", "True"], run.stderr


# Process 1 of a container: a signal without a handler does not reach it.

_AS_ROOT = () if os.geteuid() == 0 else ("--user", "--map-root-user")
AS_PROCESS_1 = ("unshare", *_AS_ROOT, "--pid", "--fork", "--kill-child", sys.executable, "-u")


@pytest.fixture
def process_1(tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """Starts Python with these arguments as process 1 of a container's process ids."""
    workers: list[Worker] = []

    def start(*arguments: str, **environment: str) -> Worker:
        taking = {"RUNPOD_WEBHOOK_GET_JOB": "http://127.0.0.1:9/job-take/$ID?gpu=FAKE"}
        workers.append(
            Worker(
                {"HOME": str(tmp_path), **taking, **environment},
                log=tmp_path / f"{len(workers)}.log",
                cwd=ROOT,
                command=(*AS_PROCESS_1, *arguments),
            )
        )
        return workers[-1]

    probe = start("-c", "import os; raise SystemExit(os.getpid() != 1)")
    if probe.wait() != 0:
        pytest.skip(f"no process ids of its own may be had here: {probe.output}")
    yield start
    for worker in workers:
        worker.close()


@pytest.mark.slow
def test_a_queue_worker_that_starts_ends_at_once_when_it_is_asked_to(
    process_1: Callable[..., Worker], tmp_path: Path
) -> None:
    worker = process_1(
        "handler.py",
        MODEL="org/none/none.gguf",
        HF_ENDPOINT="http://127.0.0.1:9",
        VOLUME_PATH=str(tmp_path),
    )
    worker.wait_output("asking http://127.0.0.1:9")
    (first,) = psutil.Process(worker.process.pid).children()
    first.send_signal(signal.SIGTERM)
    assert worker.wait(20) == 0, worker.output


_LOST = """
import sys, time
import handler
from gguf_worker.app import App
from gguf_worker.config import Settings

App.start = lambda app: None
App.dead = property(lambda app: True)
handler._import_sdk = lambda: None

def run(app):
    handler._stop_this_process()
    time.sleep(300)

handler._run_sdk = run
sys.exit(handler._serve_jobs(Settings(model="m.gguf"), None))
"""


@pytest.mark.slow
def test_an_engine_that_is_lost_before_the_sdk_takes_jobs_ends_the_worker(
    process_1: Callable[..., Worker],
) -> None:
    worker = process_1("-c", _LOST)
    assert worker.wait(30) == 1, worker.output


def test_over_http_an_engine_that_is_lost_before_it_listens_ends_the_worker_with_1(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(App, "start", lambda app: None)
    monkeypatch.setattr(App, "dead", property(lambda app: True))
    monkeypatch.setattr(App, "serve_http", lambda app: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(SystemExit) as ended:
        handler._serve_http(Settings(model="any"))
    assert ended.value.code == 1


def test_a_second_sigterm_does_not_disturb_the_end() -> None:
    handler._end_on_sigterm(lost=lambda: True)
    with pytest.raises(SystemExit) as ended:
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == 1
    signal.raise_signal(signal.SIGTERM)


_SDK_IMPORT = """
import sys
import handler
handler._import_sdk()
from runpod.serverless.utils.rp_debugger import PROCESSOR
assert "cpuinfo" not in sys.modules
import cpuinfo
known = (cpuinfo.get_cpu_info().get("brand_raw"), "Unable to get processor info.")
assert PROCESSOR in known, PROCESSOR
"""


@pytest.mark.slow
def test_the_sdk_is_told_the_processors_name_by_the_kernel_and_py_cpuinfo_is_as_it_was() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SDK_IMPORT], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("queue", "tries"), [(True, 4), (False, 1)])
def test_a_catalog_that_cannot_be_read_now_is_tried_as_a_start_is_and_no_job_is_taken(
    queue: bool, tries: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[object] = []

    def open_stale(path: Path, *given: object, **more: object) -> None:
        reads.append(path)
        raise OSError(errno.ESTALE, "Stale file handle")

    if queue:
        monkeypatch.setenv("RUNPOD_WEBHOOK_GET_JOB", "http://127.0.0.1:9/job-take/$ID")
    monkeypatch.setenv("MODELS_FILE", str(tmp_path / "models.yaml"))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(handler, "RETRY_SECONDS", (0.0, 0.0, 0.0))
    monkeypatch.setattr(handler, "_serve_jobs", lambda *_, **__: pytest.fail("it serves"))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", open_stale)
        assert handler.main([]) == 1
    assert len(reads) == tries
