"""Cold starts: from a process's start to its first request for a job.

The contestants are this worker and the one that everybody writes first. Both run
RunPod's SDK against a fake of its job API, on a model whose file is in the page cache.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from benchmarks.build import ROOT
from benchmarks.measures import Measures
from tests.fake_runpod import FakeRunPod, Worker

OURS, NAIVE = "worker", "naive worker"

_COMMANDS = {
    OURS: (sys.executable, "-u", "handler.py"),
    NAIVE: (sys.executable, "-u", "-m", "benchmarks.programs.naive_worker"),
}
_CONTEXT = 2048
_LOOK_SECONDS = 0.002
_PATIENCE = 120.0
_PHASE = re.compile(
    r'"event": "phase done", "phase": "(?P<phase>\w+)", "seconds": (?P<seconds>[0-9.e-]+)'
)


async def measure(contestant: str, model: Path, threads: int) -> Measures:
    """Return the seconds until the first request for a job, and until the job's answer."""
    return await asyncio.to_thread(_measure, contestant, model, threads)


def _measure(contestant: str, model: Path, threads: int) -> Measures:
    model.read_bytes()  # into the page cache
    settings = {"MODEL": str(model), "THREADS": str(threads), "CTX_SIZE": str(_CONTEXT)}
    with tempfile.TemporaryDirectory() as scratch, FakeRunPod() as api:
        home = Path(scratch)
        environment = api.environment(home) | settings
        job = api.submit({"prompt": "The sea is", "max_tokens": 1})
        began = time.monotonic()
        worker = Worker(
            environment, log=home / "worker.log", cwd=ROOT, command=_COMMANDS[contestant]
        )
        with closing(worker):
            while not api.polled(environment["RUNPOD_POD_ID"]):
                if worker.process.poll() is not None or time.monotonic() - began > _PATIENCE:
                    raise RuntimeError(f"{contestant} takes no job:\n{worker.output}")
                time.sleep(_LOOK_SECONDS)
            asked = time.monotonic() - began
            result = api.wait_done(job, _PATIENCE)
            answered = time.monotonic() - began
            if "error" in result:
                raise RuntimeError(f"{contestant} failed: {json.dumps(result)[:500]}")
            phases = _phases(worker.output)
            worker.terminate()
    return {"until_job_take": asked, "until_answer": answered, **phases}


def _phases(output: str) -> Measures:
    """Return the seconds of each phase of the start, as the worker's log gives them."""
    return {found["phase"]: float(found["seconds"]) for found in _PHASE.finditer(output)}
