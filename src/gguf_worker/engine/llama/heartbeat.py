"""Signs of life during a long call of llama_decode."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import llama_cpp as L


class Heartbeat:
    """Calls `beat` for each node of the graph that `context` computes, while it is switched on.

    It uses llama.cpp's abort callback, which would slow down fast steps too much, so it is on for
    slow ones only.
    """

    def __init__(self, context: Any, beat: Callable[[], None]) -> None:
        self._context = context
        self._beat = beat
        self._on = False
        self._callback = L.ggml_abort_callback(self._on_node)  # kept: C holds the pointer
        self._nothing = L.ggml_abort_callback()

    def switch(self, on: bool) -> None:
        """Switch it on or off for the next call of llama_decode."""
        if on != self._on:
            callback = self._callback if on else self._nothing
            L.llama_set_abort_callback(self._context, callback, ctypes.c_void_p(0))
            self._on = on

    def _on_node(self, _: Any) -> bool:
        self._beat()
        return False  # True would abort the step
