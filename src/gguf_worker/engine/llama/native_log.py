"""llama.cpp's own log, and the error that quotes it."""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar

import llama_cpp as L

from gguf_worker.engine.messages import GpuSupport

_WARN, _ERROR = 3, 4
_KEPT_LINES = 40
_TAIL_LINES = 6


class LlamaError(Exception):
    """A failure of llama.cpp; most messages end with the last lines of its log.

    `permanent`: another try would fail too, on any host. `lacking`: there was too little memory.
    `gpu`: the fault, where GPUs are the reason.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        permanent: bool,
        lacking: bool = False,
        gpu: GpuSupport | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.permanent = permanent
        self.lacking = lacking
        self.gpu = gpu


class NativeLog:
    """Receives llama.cpp's log: warnings go on to `write`, and the last lines are kept for
    errors."""

    installed: ClassVar[NativeLog | None] = None
    """Kept because C holds its callback, also after a failed start."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._recent: deque[str] = deque(maxlen=_KEPT_LINES)
        self._callback = L.llama_log_callback(self._on_line)
        L.llama_log_set(self._callback, ctypes.c_void_p(0))
        NativeLog.installed = self

    def _on_line(self, level: int, text: bytes, _: Any) -> None:
        line = text.decode("utf-8", "replace").rstrip()
        if not line.strip("."):
            return
        self._recent.append(line)
        if level in (_WARN, _ERROR):
            self._write(line)

    def last(self, part: str) -> str:
        """Return the last line that has `part` in it; "" if none has."""
        return next((line for line in reversed(self._recent) if part in line), "")

    def tail(self) -> str:
        """Return the last lines, joined into one."""
        return " | ".join(list(self._recent)[-_TAIL_LINES:])
