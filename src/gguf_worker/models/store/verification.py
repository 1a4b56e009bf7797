"""Stored files read byte by byte on a thread of its own, beside whatever else is done meanwhile.

What is done with the files, and with one that is wrong, is not known here.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from gguf_worker.errors import ModelCorrupt
from gguf_worker.models.store.entry import StoreEntry

log = logging.getLogger("gguf_worker.models")


class Verification:
    """Begins at once. `on_fault` is called on its thread as soon as a file is not as it was published, or
    cannot be read."""

    def __init__(
        self,
        entries: Sequence[StoreEntry],
        *,
        on_fault: Callable[[], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._entries = entries
        self._on_fault = on_fault
        self._now = now
        self._fault: Exception | None = ModelCorrupt("the stored files were not read to their end")
        self._stopping = threading.Event()
        self.seconds = 0.0
        """How long it took; known after `fault`."""
        self._thread = threading.Thread(target=self._run, name="verification", daemon=True)
        if entries:
            self._thread.start()
        else:
            self._fault = None

    def fault(self) -> Exception | None:
        """What is wrong, None only if all was read and right; waits for the last byte, or the first file that
        is wrong."""
        if self._entries:
            self._thread.join()
        return self._fault

    def stop(self) -> None:
        """Nobody asks any more. Safe at any time."""
        self._stopping.set()

    def _run(self) -> None:
        began = self._now()
        try:
            for place in self._entries:
                log.info("checking every byte of %s while it is loaded", place.beside())
                place.verify(self._go_on)
            self._fault = None
        except _Stopped:
            return
        except Exception as exc:  # whatever it is: what was not read is not known to be right
            self._fault = exc
        self.seconds = self._now() - began
        if self._fault is not None:
            self._on_fault()

    def _go_on(self, done: int) -> None:
        if self._stopping.is_set():
            raise _Stopped


class _Stopped(Exception):
    pass
