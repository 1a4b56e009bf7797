"""The frame of a proof of an image: checks in their order, containers one at a time, one log.

What is checked is in builder/prove_image.py and builder/prove_cuda.py.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.container import Container, Image, Run

NEVER_IN_AN_IMAGE = (
    *(f"/bin/{name}" for name in ("gcc", "cc", "g++", "c++", "cmake", "ninja", "nvcc", "git")),
    "/cc1plus",
    "/.cache/pip",
    "/etc/pip.conf",
    "/run/secrets",
    "/pip/bin",
    "/.netrc",
)
"""The ends of paths that no image has."""

Check = tuple[str, Callable[[], str]]
"""What holds, and the function that tries it: it returns what it saw, or raises Failed."""


class Failed(Exception):
    """A check that failed; the message says in which way."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a check was about, whether it held, and what it saw or why it failed."""

    what: str
    holds: bool
    saw: str


class Trials:
    """The containers that a proof runs, and what the latest of them has printed."""

    def __init__(self, image: Image, scratch: Path) -> None:
        self._image = image
        self.log = scratch / "log"

    def output(self) -> str:
        """Return what the latest container or build has printed."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    @contextlib.contextmanager
    def running(self, run: Run, image: Image | None = None) -> Iterator[Container]:
        """Run a container of the image under test, or of another one."""
        with self.log.open("w") as log:
            container = (image or self._image).start(run, log)
            try:
                yield container
            finally:
                container.close()

    def ended(self, run: Run, seconds: float) -> tuple[int, str]:
        """Return the exit status of a container that ends by itself, and what it printed."""
        with self.running(run) as container:
            status = container.process.wait(seconds)
        return status, self.output()


def tried(checks: Sequence[Check], output: Callable[[], str]) -> Iterator[Result]:
    """Try each check and print a line about it; after a failure, the end of `output` too."""
    for what, check in checks:
        began = time.monotonic()
        try:
            saw = check()
        except (Failed, subprocess.SubprocessError, OSError) as problem:
            print(f"    FAILED  {what}: {problem}", flush=True)
            print(output()[-4000:], file=sys.stderr)
            yield Result(what, False, str(problem))
        else:
            print(f"    ok  {what} ({time.monotonic() - began:.1f} s): {saw}", flush=True)
            yield Result(what, True, saw)


def expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Failed(otherwise)
