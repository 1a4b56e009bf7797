"""A limit on the time that a template, which is a stranger's program, may take."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise TimeoutError inside the block once it has run for so many seconds.

    It is raised at the next line of Python; a call of C code may take longer. One limit cannot
    stand within another: Python forgets the outer one where that is the first to be passed.
    """
    until, before = time.monotonic() + seconds, sys.gettrace()

    def look(frame: FrameType, event: str, given: object) -> Any:
        if time.monotonic() > until:
            raise TimeoutError
        return look

    sys.settrace(look)
    try:
        yield
    finally:
        sys.settrace(before)
