"""The model's own log probabilities of tokens: of the drawn one, and of the likeliest.

Pure numpy over one row of logits, before biases, bans, masks and samplers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gguf_worker.generation import TokenLogprob

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
    count = min(count, len(logits))
    ids = np.argpartition(logits, len(logits) - count)[-count:]
    ids.sort()
    ordered = ids[np.argsort(-logits[ids], kind="stable")]
    return [int(id) for id in ordered]
