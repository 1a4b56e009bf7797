"""Starts threads with stacks of a size, which Python has for all that begin at the time."""

from __future__ import annotations

import threading

_LOCK = threading.Lock()


def start_with_stack(thread: threading.Thread, size: int) -> None:
    """Start a thread with a stack of `size` bytes; raises RuntimeError without memory for it."""
    with _LOCK:
        usual = threading.stack_size(size)
        try:
            thread.start()
        finally:
            threading.stack_size(usual)
