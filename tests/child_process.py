"""Python programs that a test starts beside itself and ends with itself."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager


def import_path() -> dict[str, str]:
    """Return the variable that lets a child import all that this process can."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


@contextmanager
def python(
    *arguments: str,
    environ: Mapping[str, str] | None = None,
    stderr: int | None = None,
    before: Callable[[], None] | None = None,
) -> Iterator[subprocess.Popen[str]]:
    """Run Python with these arguments until the block is left; what still runs then is killed.

    Its output is piped as text, its input empty. `environ` adds to this process's environment,
    `stderr` is as in `subprocess`, `before` runs in the child before Python does.
    """
    child = subprocess.Popen(
        [sys.executable, *arguments],
        env={**os.environ, **import_path(), **(environ or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        preexec_fn=before,
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()
