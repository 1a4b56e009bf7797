"""Waiting for effects that nothing announces, in another process, a thread or a socket.

A test that has an event, a queue or a future to wait for waits for that instead.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 30.0
"""Seconds to wait at most, far more than any effect takes, so that a slow machine fails no test."""
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
