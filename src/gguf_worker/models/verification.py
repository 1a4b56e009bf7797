"""Stored files read byte by byte on a thread of its own, beside whatever else is done meanwhile.

What is done with the files, and with one that is wrong, is not known here.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from gguf_worker.errors import StartError
from gguf_worker.models.shelf import Place

log = logging.getLogger("gguf_worker.models")


class Verification:
    """Begins at once. `on_fault` is called on its thread as soon as a file is not as it was published."""

    def __init__(
        self,
        places: Sequence[Place],
        *,
        on_fault: Callable[[], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._places = places
        self._on_fault = on_fault
        self._now = now
        self._fault: Exception | None = None
        self.seconds = 0.0
        """How long it took; known after `fault`."""
        self._thread = threading.Thread(target=self._run, name="verification", daemon=True)
        if places:
            self._thread.start()

    def fault(self) -> Exception | None:
        """What is wrong, None if nothing is; waits for the last byte, or the first file that is wrong."""
        if self._places:
            self._thread.join()
        return self._fault

    def _run(self) -> None:
        began = self._now()
        try:
            for place in self._places:
                log.info("checking every byte of %s while it is loaded", place.beside())
                place.verify(lambda done: None)
        except (StartError, OSError) as exc:
            self._fault = exc
        self.seconds = self._now() - began
        if self._fault is not None:
            self._on_fault()
