"""Finds the rows of logits that say nothing of the next token: what was computed was no number.

Then all logits are NaN, or all are the same: some of llama.cpp's kernels for quantised weights take
a vector without numbers for zeros. A row with only some NaN is no such row: there the output layer
is at fault.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_PROBES = 8
"""Logits of a row that are looked at first: some differ in every other row, and a pass over a
whole vocabulary takes a tenth of a millisecond."""


def lost_rows(logits: npt.NDArray[np.float32]) -> frozenset[int]:
    """Return the indices of the lost rows among `logits`, of shape (rows, vocabulary)."""
    probes = logits[:, :: max(1, logits.shape[1] // _PROBES)]
    in_order = probes.max(axis=1) > probes.min(axis=1)  # False for NaN too
    return frozenset(int(row) for row in np.flatnonzero(~in_order) if _is_lost(logits[row]))


def _is_lost(row: npt.NDArray[np.float32]) -> bool:
    return bool(np.isnan(row).all() or (row == row[0]).all())
