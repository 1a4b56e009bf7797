"""The model's own log probabilities of tokens: of the drawn one, and of the likeliest.

Pure numpy over one row of logits, before biases, bans, masks and samplers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gguf_worker.generation import TokenLogprob

_ROWS = 64
"""Rows of the table in which the likeliest tokens are looked for."""
LEAST = -9999.0
"""A stand-in for minus infinity, which JSON cannot write."""


def token_logprob(
    logits: npt.NDArray[np.float32], token: int, top: int, pieces: Sequence[bytes]
) -> TokenLogprob:
    """Return the log probability of `token` and of the `top` likeliest ones, if there are to be
    any with that of `token` behind them where it is none of them.

    `logits` are (vocabulary,); `pieces` has the bytes of every token. Logarithms are natural.
    """
    largest = logits.max()
    # Relative to the largest in float32, which is exact enough there; summed in float64.
    total = np.exp(logits - largest).sum(dtype=np.float64)
    offset = float(largest) + float(np.log(total))

    def entry(at: int) -> tuple[int, bytes, float]:
        return at, pieces[at], max(float(logits[at]) - offset, LEAST)

    ids = _likeliest(logits, top)
    if ids and token not in ids:
        ids.append(token)
    return TokenLogprob(*entry(token), tuple(map(entry, ids)))


def _likeliest(logits: npt.NDArray[np.float32], count: int) -> list[int]:
    """Return the ids of the `count` largest logits in order; of equals, the smaller id first."""
    if count <= 0:
        return []
    if count == 1:
        return [int(logits.argmax())]
    ids = _candidates(logits, count)
    ordered = ids[np.argsort(-logits[ids], kind="stable")[:count]]
    return [int(id) for id in ordered]


def _candidates(logits: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.intp]:
    """Return ids in order among which the `count` largest logits are.

    Where the logits are a table, so many columns have a logit as large as the least of these, so
    that all that are wanted are in such columns. To find those costs a third of a partition.
    """
    width = len(logits) // _ROWS
    if width <= count:
        return np.arange(len(logits))
    table = logits[: width * _ROWS].reshape(_ROWS, width)
    largest = table.max(axis=0)  # of each column, which is a pass over whole vectors
    least = np.partition(largest, width - count)[width - count]
    found = np.flatnonzero(largest >= least) + width * np.arange(_ROWS)[:, None]
    return np.concatenate([found.ravel(), np.arange(width * _ROWS, len(logits))])
