"""Start the worker with each fault of tests/start_faults.py, on the queue, over HTTP and locally.

    python builder/fault_matrix.py [WORDS]

Prints a table in Markdown: what the worker did, after how many seconds, with which exit code, and
the reason that it gave. Takes some minutes, since the worker's pauses are real. WORDS choose the
faults that have them in their names. The exit code is 1 if a run differs from docs/troubleshooting.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.fake_runpod import FakeRunPod, Worker  # noqa: E402
from tests.start_faults import (  # noqa: E402
    ENDS,
    KILLED,
    RETRIES,
    SERVES,
    START_FAULTS,
    Scene,
    StartFault,
    new_scene,
    refuses,
)
from tests.waiting import until  # noqa: E402

MODES = ("queue", "http", "local")
LONGEST = 480.0
"""Seconds after which a run has failed."""
_ASKED = {"prompt": "the sea", "max_tokens": 4}
_BUSY = 2
"""Runs at once that work most of the time; those that wait between their tries are not counted."""
_COUNTS = {4: "four"}
_REASON = re.compile(
    r"(?:cannot start|the engine will not be started again): (.*?)(?:\"[,}]|$)|^error: (.*)$", re.M
)
_OF_THE_RUN = (
    (re.compile(r"http://127\.0\.0\.1:\d+"), "HF_ENDPOINT"),
    (re.compile(r"(?<!\w)/\S*/(?=[^/\s]*\.gguf)"), ""),
    (re.compile(r"/\S+/volume/gguf-worker"), "VOLUME_PATH"),
)
"""What differs from run to run in a reason, with the words in its place."""
_SHOWN = 170


@dataclass(frozen=True)
class FaultRun:
    """One run: `did` is in the words of tests/start_faults.py."""

    fault: StartFault
    mode: str
    did: str
    seconds: float
    status: int | None
    reason: str

    @property
    def expected(self) -> str:
        return str(getattr(self.fault, self.mode))


def run_fault(fault: StartFault, mode: str, folder: Path) -> FaultRun:
    """Start the worker with the fault, and see what it does. The folder has to be empty."""
    with new_scene(folder) as scene, FakeRunPod(hold=0.2) as api:
        scene.settings.update(fault.more)
        if fault.stored:
            scene.store_model()
        fault.spoil(scene)
        watched = {"queue": _on_queue, "http": _over_http, "local": _locally}[mode]
        return watched(_Run(fault, scene, api))


class _Run:
    """A worker with a fault, from its start to its end."""

    def __init__(self, fault: StartFault, scene: Scene, api: FakeRunPod) -> None:
        self.fault = fault
        self.api = api
        self._scene = scene
        self._began = 0.0
        self.worker: Worker

    def start(self, *arguments: str, **settings: str) -> None:
        program = ["handler.py"]
        if self.fault.program is not None:
            program = ["tests/faulty_worker.py", self.fault.program]
        home = self._scene.folder / "home"
        home.mkdir()
        environment = {"HOME": str(home), **self._scene.settings, **settings}
        self._began = time.monotonic()
        self.worker = Worker(
            environment,
            log=self._scene.folder / "log",
            cwd=ROOT,
            command=[sys.executable, "-u", *program, *arguments],
        )
        if self.fault.interrupted:
            assert self._scene.hub.file_asked.wait(60)
            self._began = time.monotonic()
            self.worker.process.send_signal(signal.SIGTERM)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    @property
    def status(self) -> int | None:
        return self.worker.process.poll()

    def done(self, mode: str, did: str, seconds: float, reason: str | None = None) -> FaultRun:
        if reason is None:
            found = _REASON.findall(self.worker.output)
            reason = next((text for text in found[-1] if text), "") if found else ""
        return FaultRun(self.fault, mode, did, seconds, self.status, _short(reason))


def _on_queue(run: _Run) -> FaultRun:
    (home := run._scene.folder / "runpod").mkdir()
    job = run.api.submit(_ASKED)
    run.start(**run.api.environment(home))
    with closing(run.worker):
        results = until(lambda: run.api.results_of(job) or run.status is not None, LONGEST)
        seconds = run.seconds
        if isinstance(results, list):
            run.worker.terminate()
            if "error" not in results[0]:
                return run.done("queue", SERVES, seconds, "")
            error = json.loads(results[0]["error"])
            return run.done("queue", refuses(error["code"]), seconds, error["message"])
        if run.status == 0:
            return run.done("queue", ENDS, seconds, "")
        tries = run.worker.output.count("cannot start: ")
        before = f"{_COUNTS.get(tries, tries)} tries, then " if tries else ""
        taken = "a job is taken" if run.api.is_taken(job) else "no job is taken"
        return run.done("queue", f"{before}exit {run.status}; {taken}", seconds)


def _over_http(run: _Run) -> FaultRun:
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    run.start(WORKER_MODE="http", HOST="127.0.0.1", PORT=str(port))
    base = f"http://127.0.0.1:{port}"

    def ready() -> bool:
        with suppress(httpx.TransportError):
            return httpx.get(f"{base}/ping").status_code == 200
        return False

    with closing(run.worker):
        until(lambda: run.status is not None or ready(), LONGEST, pause=0.1)
        if run.status is None:
            with suppress(httpx.TransportError):
                answer = httpx.post(f"{base}/v1/completions", json=_ASKED, timeout=60)
                if answer.status_code == 200:
                    seconds = run.seconds
                    run.worker.terminate()
                    return run.done("http", SERVES, seconds, "")
            run.worker.wait(LONGEST)
        did = ENDS if run.status == 0 else f"exit {run.status}"
        return run.done("http", did, run.seconds, "" if run.status == 0 else None)


def _locally(run: _Run) -> FaultRun:
    run.start("--test_input", json.dumps({"input": _ASKED}))
    with closing(run.worker):
        status = run.worker.wait(LONGEST)
        seconds = run.seconds
        did = {0: SERVES, -signal.SIGTERM: KILLED}.get(status, f"exit {status}")
        return run.done("local", did, seconds, None if status == 1 else "")


def _short(reason: str) -> str:
    with suppress(ValueError, KeyError, TypeError):
        reason = json.loads(reason)["message"]
    for pattern, words in _OF_THE_RUN:
        reason = pattern.sub(words, reason)
    text = " ".join(reason.replace("|", "/").split())
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def run_all(faults: Sequence[StartFault], folder: Path) -> list[FaultRun]:
    """Run every fault in every mode. A run's own problem is its result."""

    def one(fault: StartFault, mode: str, place: Path) -> FaultRun:
        place.mkdir()
        try:
            return run_fault(fault, mode, place)
        except (AssertionError, OSError, subprocess.SubprocessError) as problem:
            return FaultRun(fault, mode, f"not run: {_short(str(problem))}", 0.0, None, "")
        finally:
            shutil.rmtree(place, ignore_errors=True)

    pairs = [(fault, mode) for fault in faults for mode in MODES]
    waits = [(fault, mode) for fault, mode in pairs if getattr(fault, mode) == RETRIES]
    found: dict[tuple[str, str], Future[FaultRun]] = {}
    with ThreadPoolExecutor(max(1, len(waits))) as waiting, ThreadPoolExecutor(_BUSY) as busy:
        for number, (fault, mode) in enumerate(pairs):
            pool = waiting if (fault, mode) in waits else busy
            found[fault.name, mode] = pool.submit(one, fault, mode, folder / str(number))
            if pool is waiting:
                time.sleep(2.0)  # so that they don't work at the same moments
    return [found[fault.name, mode].result() for fault, mode in pairs]


def table(runs: Sequence[FaultRun]) -> str:
    """Return the runs as a table in Markdown."""
    lines = [
        "| fault | mode | what the worker does | seconds | exit | reason |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for run in runs:
        differs = "" if run.did == run.expected else f" (**expected: {run.expected}**)"
        status = "" if run.status is None else str(run.status)
        cells = (run.fault.name, run.mode, run.did + differs, f"{run.seconds:.1f}", status)
        lines.append(f"| {' | '.join(cells)} | {run.reason} |")
    return "\n".join(lines)


def main(words: Sequence[str]) -> int:
    faults = [each for each in START_FAULTS if all(word in each.name for word in words)]
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        runs = run_all(faults, Path(folder))
    print(table(runs))
    wrong = sum(run.did != run.expected for run in runs)
    print(f"\n{len(runs)} runs in {time.monotonic() - began:.0f} s, {wrong or 'none'} differ")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
