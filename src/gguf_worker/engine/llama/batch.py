"""The rows of one call of llama_decode, in llama.cpp's batch."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from typing import Protocol

import llama_cpp as L
import numpy as np


class BatchRows(Protocol):
    """Tokens of one sequence that go into a batch together, from position `start`.

    The last one is an output if `output`, and so are the `scored` ones before that; `slot` is the
    sequence id.
    """

    @property
    def tokens(self) -> Iterable[int]: ...
    @property
    def start(self) -> int: ...
    @property
    def rows(self) -> int: ...
    @property
    def slot(self) -> int: ...
    @property
    def output(self) -> bool: ...
    @property
    def scored(self) -> int: ...


class Batch:
    """A `llama_batch` of `size` rows with one sequence id each, filled through numpy views."""

    def __init__(self, size: int) -> None:
        self.c = L.llama_batch_init(size, 0, 1)
        self.token = np.ctypeslib.as_array(self.c.token, (size,))
        self.pos = np.ctypeslib.as_array(self.c.pos, (size,))
        self.output = np.ctypeslib.as_array(self.c.logits, (size,))
        np.ctypeslib.as_array(self.c.n_seq_id, (size,))[:] = 1
        self.slot = np.zeros(size, np.int32)
        self._last: tuple[list[int], list[int]] = ([], [])
        # Row i's id list becomes slot[i:i+1], once; llama_batch_free needs the old pointers back.
        table = ctypes.cast(self.c.seq_id, ctypes.POINTER(ctypes.c_uint64))
        self._pointers = np.ctypeslib.as_array(table, (size,))
        self._original = self._pointers.copy()
        self._pointers[:] = self.slot.ctypes.data + 4 * np.arange(size, dtype=np.uint64)

    def fill(self, chunks: Sequence[BatchRows]) -> list[int]:
        """Replace the rows; returns the batch rows that are outputs, in order."""
        # One assignment for each array, since numpy's cost is per call. Decoding steps have the
        # same rows again and again, so ids and flags are written only when they change.
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        outputs: list[int] = []
        for chunk in chunks:
            tokens += chunk.tokens
            positions += range(chunk.start, chunk.start + chunk.rows)
            slots += [chunk.slot] * chunk.rows
            if chunk.scored:
                end = len(tokens) - chunk.output
                outputs += range(end - chunk.scored, end)
            if chunk.output:
                outputs.append(len(tokens) - 1)
        rows = len(tokens)
        self.token[:rows] = tokens
        self.pos[:rows] = positions
        if self._last != (slots, outputs):
            self.slot[:rows] = slots
            self.output[:rows] = 0
            self.output[outputs] = 1
            self._last = (slots, outputs)
            self.c.n_tokens = rows
        return outputs

    def close(self) -> None:
        """Free the batch."""
        self._pointers[:] = self._original
        L.llama_batch_free(self.c)
