"""The progress of a download, for a log: a line every few seconds."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from gguf_worker.models.store import Progress

log = logging.getLogger("gguf_worker.app")

_INTERVAL_SECONDS = 5.0


class DownloadLog:
    """A callback for a store's progress."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._logged_at = now()

    def __call__(self, progress: Progress) -> None:
        if self._now() - self._logged_at < _INTERVAL_SECONDS:
            return
        self._logged_at = self._now()
        log.info(
            "downloading %s: %.0f %% of %.2f GB, %.0f MB/s",
            progress.file,
            100 * progress.done_bytes / max(progress.total_bytes, 1),
            progress.total_bytes / 1e9,
            progress.bytes_per_second / 1e6,
        )
