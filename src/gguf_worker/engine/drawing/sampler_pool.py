"""Draws the tokens of one step, on several threads where that pays.

A sampler's pass over the vocabulary is C code that runs without Python's lock, so the rows of a
step can be drawn side by side. Handing work to a thread costs some 50 microseconds, so few or cheap
rows are drawn on the calling thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

Banned = npt.NDArray[np.int32] | npt.NDArray[np.bool_]
"""Tokens that may not be drawn: their ids, or a flag for each token of the vocabulary."""

WORTH_SHARING = 1_000_000
"""Number of logits to pass over in one step from which threads share the work."""


class TokenSampler(Protocol):
    """Draws the tokens of one request."""

    passes: int
    """Passes over the whole vocabulary for each token that cost more than an argmax; 0: none."""

    @property
    def ready(self) -> bool:
        """Tells whether it can draw: some take long to make, and are made beside the loop."""

    def sample(self, row: int, logits: npt.NDArray[np.float32], banned: Banned) -> int: ...
    def close(self) -> None: ...


class DrawRow(NamedTuple):
    """One draw: the sampler, the batch row, its logits, and the tokens that may not be drawn."""

    sampler: TokenSampler
    row: int
    logits: npt.NDArray[np.float32]
    banned: Banned


class SamplerPool:
    """Threads that draw together: up to `threads`, the calling one included."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pool: ThreadPoolExecutor | None = None

    def draw(self, rows: Sequence[DrawRow]) -> list[int]:
        """Draw a token for each row, in order; -1 where no logit is valid."""
        work = sum(row.sampler.passes * len(row.logits) for row in rows)
        if self._threads < 2 or len(rows) < 2 or work < WORTH_SHARING:
            return _drawn(rows)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads - 1, "draw")
        share = -(-len(rows) // self._threads)
        parts = [rows[at : at + share] for at in range(0, len(rows), share)]
        others = [self._pool.submit(_drawn, part) for part in parts[1:]]
        tokens = _drawn(parts[0])
        for other in others:
            tokens += other.result()
        return tokens

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()


def _drawn(rows: Sequence[DrawRow]) -> list[int]:
    return [sampler.sample(row, logits, banned) for sampler, row, logits, banned in rows]
