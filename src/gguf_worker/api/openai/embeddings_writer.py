"""The writer of embeddings: vectors of float32 bytes become lists of numbers, or base64."""

from __future__ import annotations

import asyncio
import math
import struct
from binascii import b2a_base64
from typing import Any

import msgspec

from gguf_worker.api.openai.embeddings_reader import EmbeddingsCall
from gguf_worker.errors import GenerationFailed
from gguf_worker.providers import Embeddings, ModelCard

_AT_ONCE = 16
"""Vectors written between two returns to the event loop: some milliseconds."""


async def write_embeddings(
    embeddings: Embeddings, call: EmbeddingsCall, card: ModelCard
) -> dict[str, Any]:
    """Return OpenAI's list of embeddings, made from vectors of float32 bytes.

    Other requests get their turn while it is written: it may be tens of megabytes. Raises
    GenerationFailed for a vector that has NaN or infinity.
    """
    data: list[dict[str, Any]] = []
    for index, vector in enumerate(embeddings.vectors):
        if index and index % _AT_ONCE == 0:
            await asyncio.sleep(0)
        data.append(
            {
                "object": "embedding",
                "index": index,
                "embedding": _written(vector, index, call.base64),
            }
        )
    cost = embeddings.prompt_tokens
    usage = {"prompt_tokens": cost, "total_tokens": cost}
    return {"object": "list", "data": data, "model": card.name, "usage": usage}


def _written(vector: bytes, index: int, base64: bool) -> str | msgspec.Raw:
    size = len(vector) // 4
    values = struct.unpack(f"<{size}f", vector)
    if not math.isfinite(sum(values)):
        raise GenerationFailed(f"The model's vector of `input[{index}]` is not made of numbers.")
    if base64:
        return b2a_base64(vector, newline=False).decode()
    # Nine digits tell every float32 from its neighbours; Python would write seventeen, a double's.
    # Finding the shortest text of each would save another tenth of the answer, and take three times
    # as long.
    return msgspec.Raw(b"[" + (b"%.9g," * size)[:-1] % values + b"]")
