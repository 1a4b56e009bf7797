"""Waiting for what a test has caused and cannot be told of: another process, a thread, a socket.

Where the test can be told (an event, a queue, a future), it waits for that instead.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 30.0
"""Seconds: far more than any of these takes, so that a slow machine fails no test."""
PAUSE = 0.01
"""Seconds from one look to the next."""


def until(holds: Callable[[], T | None], seconds: float = PATIENCE, *, pause: float = PAUSE) -> T:
    """Return the first true value that `holds` gives, asked again after each `pause`.

    Raises AssertionError after `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not (value := holds()):
        assert time.monotonic() < deadline, f"still {value!r} after {seconds:g} seconds"
        time.sleep(pause)
    return value


async def until_async(holds: Callable[[], T | None], seconds: float = PATIENCE) -> T:
    """Return the first true value that `holds` gives, asked again while the event loop goes on.

    Raises AssertionError after `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not (value := holds()):
        assert time.monotonic() < deadline, f"still {value!r} after {seconds:g} seconds"
        await asyncio.sleep(PAUSE)
    return value
