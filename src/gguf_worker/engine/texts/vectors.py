"""Joins the vectors of a text's spans, and encodes the result for sending."""

from __future__ import annotations

import numpy as np

from gguf_worker.engine.texts.spans import EmbedText, Span, Vectors


def joined(pooling: str, before: Vectors | None, vector: Vectors, span: Span) -> Vectors:
    """Return a text's vector up to a span with `vector`; `before` is that of the spans before it.

    A mean is over all tokens of the text, so each span is weighted by its share of them.
    """
    if pooling == "mean":
        weighted = vector * np.float32(span.rows / len(span.text.tokens))
        return weighted if before is None else before + weighted
    return before if pooling == "cls" and before is not None else vector


def as_bytes(text: EmbedText) -> bytes | None:
    """Return a text's score, or its vector cut to the wanted dimensions and scaled to length 1.

    Encoded as little-endian float32; None if the model computed no valid numbers.
    """
    assert text.vector is not None
    vector = text.vector
    if text.request.ranks:
        score = vector[:1]
        return score.astype("<f4").tobytes() if np.isfinite(score).all() else None
    vector = vector[: text.request.embed.dimensions].astype(np.float64)
    length = float(np.linalg.norm(vector))
    if not np.isfinite(length) or length == 0:
        return None
    return (vector / length).astype("<f4").tobytes()
