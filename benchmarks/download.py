"""Downloads of a large file from a Hub on this machine, over plain HTTP.

Contestants fetch the same file to a new folder: this worker's store, which also hashes, checks and
publishes it, with many connections, with as many by httpx2 alone, and with one; huggingface_hub;
and, as a bound for a copy that is hashed, `cp` and then `sha256sum`. Imports are left out. The file
is in the page cache, and so are the copies, as far as memory goes.
"""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks.build import CACHE, ROOT
from benchmarks.measures import Measures
from benchmarks.random_model import SHAPES, write

MANY, HTTPX, ONE = "many ranges", "many by httpx2", "one connection"
HUGGINGFACE, COPY = "hf download", "cp + sha256"
CONTESTANTS = (MANY, HTTPX, ONE, HUGGINGFACE, COPY)
CONNECTIONS = 16
LIMIT_MB = 20
"""MB/s that the limited server gives each connection."""

_VOCABULARY = 512
_LIMITED_SECONDS = 3.0
"""The time after which one limited connection has shown its speed."""


async def measure(contestant: str, shape: str) -> Measures:
    """Return the speed without a limit, and the processor time that it took.

    The worker's own also have the speed from a server that limits each connection, and its two
    clients what receiving alone takes, without a disk and a hash.
    """
    return await asyncio.to_thread(_measure, contestant, shape)


def _measure(contestant: str, shape: str) -> Measures:
    source = _model(shape)
    source.read_bytes()  # into the page cache
    speed, work = _copied(source) if contestant == COPY else _fetched(contestant, source, 0)
    measures = {"mb_per_second": speed, "processor_seconds": work}
    if contestant in (MANY, ONE):
        measures["limited_mb_per_second"], _ = _fetched(contestant, source, LIMIT_MB)
    if contestant in (MANY, HTTPX):
        speed, work = _fetched(contestant, source, 0, how="receive")
        measures |= {"received_mb_per_second": speed, "receiving_processor_seconds": work}
    return measures


def _model(shape: str) -> Path:
    """Return a random model of a shape, written when first used.

    Its vocabulary is small: reading the header, before and after a download, is another matter.
    """
    path = CACHE / "models" / f"download-{shape}.gguf"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        sized = replace(SHAPES[shape], weights="Q8_0", vocabulary=_VOCABULARY)
        write(partial, sized, name=f"random {shape}")
        partial.rename(path)
    return path


def _copied(source: Path) -> tuple[float, float]:
    """Return MB/s, and seconds of processor time for each GB."""
    with _folder() as folder:
        target, size = folder / "model.gguf", source.stat().st_size
        began, worked = time.monotonic(), _work_of_children()
        for command in (("cp", source, target), ("sha256sum", target)):
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds, work = time.monotonic() - began, _work_of_children() - worked
        return size / seconds / 1e6, work / size * 1e9


def _work_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _fetched(contestant: str, source: Path, limit: float, *, how: str = "") -> tuple[float, float]:
    """Return MB/s, and seconds of processor time for each GB."""
    seconds = how or str(_LIMITED_SECONDS if limit and contestant == ONE else 0.0)
    with _folder() as folder, _hub(source, limit) as endpoint:
        command = (sys.executable, "-m", "benchmarks.programs.fetch", contestant, endpoint)
        done = subprocess.run(
            [*command, str(folder), seconds],
            cwd=ROOT,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        speed, work = done.stdout.split()
        return float(speed), float(work)


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        yield Path(folder)


@contextmanager
def _hub(source: Path, limit: float) -> Iterator[str]:
    """Run a loopback Hub and yield its address."""
    command = (sys.executable, "-m", "benchmarks.programs.loopback_hub", str(source))
    process = subprocess.Popen(
        [*command, "--rate", str(limit)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()
