"""A check of stored files, byte by byte, on a thread of its own while they are loaded.

Knows neither the reader of the files nor what happens to a damaged one.
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
    """Reads all bytes of files and checks them, beginning at once.

    `on_fault` is called on its thread as soon as a file differs from the one that was published, or
    cannot be read.
    """

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
        """The time that the check took; known after `fault`."""
        self._thread = threading.Thread(target=self._run, name="verification", daemon=True)
        if entries:
            self._thread.start()
        else:
            self._fault = None

    def fault(self) -> Exception | None:
        """Wait for the last byte, or the first damaged file, and return the error.

        Returns None only if all files were read and are right.
        """
        if self._entries:
            self._thread.join()
        return self._fault

    def stop(self) -> None:
        """Stop reading. Safe at any time."""
        self._stopping.set()

    def _run(self) -> None:
        began = self._now()
        try:
            for entry in self._entries:
                log.info("checking every byte of %s while it is loaded", entry.path)
                entry.verify(self._check_stop)
            self._fault = None
        except _VerificationStopped:
            return
        except Exception as exc:  # of any kind: files that were not read may be damaged
            self._fault = exc
        self.seconds = self._now() - began
        if self._fault is not None:
            self._on_fault()

    def _check_stop(self, done: int) -> None:
        if self._stopping.is_set():
            raise _VerificationStopped


class _VerificationStopped(Exception):
    pass
