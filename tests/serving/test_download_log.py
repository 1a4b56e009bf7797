"""The progress of a download in the log."""

from __future__ import annotations

import logging

import pytest

from gguf_worker.models.store import Progress
from gguf_worker.serving import DownloadLog
from tests.fakes import FakeClock


def test_a_download_is_a_line_every_five_seconds(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    log = DownloadLog(clock)
    with caplog.at_level(logging.INFO, "gguf_worker"):
        for done in range(12):
            log(Progress("a.gguf", done * 100_000_000, 2_000_000_000, 100e6))
            clock.advance(1)
    assert caplog.messages == [
        "downloading a.gguf: 25 % of 2.00 GB, 100 MB/s",
        "downloading a.gguf: 50 % of 2.00 GB, 100 MB/s",
    ]


def test_a_file_without_a_size_is_logged_too(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    log = DownloadLog(clock)
    clock.advance(5)
    with caplog.at_level(logging.INFO, "gguf_worker"):
        log(Progress("empty.gguf", 0, 0, 0.0))
    assert caplog.messages == ["downloading empty.gguf: 0 % of 0.00 GB, 0 MB/s"]
