"""A log that tests read back."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from gguf_worker.monitoring import configure_logging


class Log:
    """The lines that were logged."""

    def __init__(self) -> None:
        self.stream = io.StringIO()

    @property
    def text(self) -> str:
        return self.stream.getvalue()

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]

    @property
    def last(self) -> dict[str, Any]:
        return self.lines[-1]

    def configure(self, level: str = "info", *, console: bool = False, **options: Any) -> None:
        configure_logging(level, stream=self.stream, console=console, **options)


@pytest.fixture
def log() -> Iterator[Log]:
    root, package = logging.getLogger(), logging.getLogger("gguf_worker")
    before = root.handlers[:], root.level, package.level
    # Handlers that others have put there are closed by `configure`; keep pytest's own out of it.
    root.handlers.clear()
    log = Log()
    log.configure()
    yield log
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    package.setLevel(before[2])
