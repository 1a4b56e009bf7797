"""Texts as vectors: the body of OpenAI's /v1/embeddings, and its answer.

Knows no model. Vectors are bytes until they are written down, here and nowhere else.
"""

from __future__ import annotations

import asyncio
import math
import struct
from binascii import b2a_base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from pydantic import Field

from gguf_worker.api.schema import User, read_shape
from gguf_worker.api.shapes import Shape
from gguf_worker.api.translation import refuse_foreign
from gguf_worker.errors import GenerationFailed, InvalidRequest
from gguf_worker.providers import EmbeddingRequest, Embeddings

MAX_INPUTS = 2048
"""OpenAI's own limit."""
MAX_CHARACTERS = 2**24
"""Of all inputs together, where they are texts."""
MAX_TOKENS = 2**22
"""Of all inputs together, where they are token ids."""

_FOREIGN = {
    "truncate": "shorten the inputs",
    "truncate_prompt_tokens": "shorten the inputs",
}

_INT32 = 2**31 - 1

_AT_ONCE = 16
"""Vectors written down between two looks at what else there is to do: some milliseconds."""

Input = str | tuple[int, ...]


class EmbeddingsBody(Shape):
    model: str | None = None
    input: Any
    """Looked at by hand: a fault is told with its place in the list."""
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1, le=_INT32)] | None = None
    user: User | None = None
    normalize: Literal[True] = True
    """Others' word for vectors of length 1; here they always are."""
    embd_normalize: Literal[2] = 2
    """llama.cpp's word for it."""


@dataclass(frozen=True, slots=True)
class EmbeddingsRequest:
    """A checked body. `base64`: how the vectors are wanted, instead of as lists of numbers."""

    model: str | None
    request: EmbeddingRequest
    base64: bool


def read_embeddings(
    body: Mapping[str, Any], *, id: str, deadline: float | None
) -> EmbeddingsRequest:
    """The body of /v1/embeddings; a fault of an input is named by its index."""
    refuse_foreign(body, _FOREIGN)
    asked = read_shape(body, EmbeddingsBody)
    request = EmbeddingRequest(id, _inputs(asked.input), asked.dimensions, deadline)
    return EmbeddingsRequest(asked.model, request, asked.encoding_format == "base64")


async def embeddings_object(embeddings: Embeddings, model: str, *, base64: bool) -> dict[str, Any]:
    """OpenAI's list of embeddings. Others get their turn while it is written: it may be tens of megabytes.

    Raises GenerationFailed for a vector that is not made of numbers.
    """
    data: list[dict[str, Any]] = []
    for index, vector in enumerate(embeddings.vectors):
        if index and index % _AT_ONCE == 0:
            await asyncio.sleep(0)
        data.append(
            {"object": "embedding", "index": index, "embedding": _written(vector, index, base64)}
        )
    cost = embeddings.prompt_tokens
    usage = {"prompt_tokens": cost, "total_tokens": cost}
    return {"object": "list", "data": data, "model": model, "usage": usage}


def _written(vector: bytes, index: int, base64: bool) -> str | msgspec.Raw:
    size = len(vector) // 4
    values = struct.unpack(f"<{size}f", vector)
    if not math.isfinite(sum(values)):
        raise GenerationFailed(f"The model's vector of `input[{index}]` is not made of numbers.")
    if base64:
        return b2a_base64(vector, newline=False).decode()
    # Nine digits tell every float32 from its neighbours, where a double's own text has seventeen. To find
    # the shortest text of each would save a tenth more of the answer, and take three times as long.
    return msgspec.Raw(b"[" + (b"%.9g," * size)[:-1] % values + b"]")


def _inputs(value: Any) -> tuple[Input, ...]:
    """OpenAI's four forms as one: a text, token ids, or a list of either kind."""
    inputs: tuple[Input, ...]
    if isinstance(value, str) or (isinstance(value, list) and value and type(value[0]) is int):
        inputs = (_input(value, "input"),)
    elif isinstance(value, list) and 1 <= len(value) <= MAX_INPUTS:
        inputs = tuple(_input(each, f"input[{at}]") for at, each in enumerate(value))
    else:
        raise InvalidRequest(
            f"`input` should be text, token ids, or a list of 1 to {MAX_INPUTS} of these.",
            param="input",
        )
    _require_one_kind(inputs)
    _require_few(inputs)
    return inputs


def _input(value: Any, path: str) -> Input:
    if not isinstance(value, str | list):
        raise InvalidRequest(f"`{path}` should be text or token ids.", param=path)
    if not value:
        raise InvalidRequest(f"`{path}` is empty.", param=path)
    if isinstance(value, str):
        return value
    # Millions are looked at in a quarter of the time where each needs no step of Python's.
    if set(map(type, value)) != {int} or min(value) < 0 or max(value) > _INT32:
        at = next(at for at, token in enumerate(value) if not _is_token(token))
        raise InvalidRequest(
            f"`{path}[{at}]` should be a token id, a whole number from 0.",
            param=f"{path}[{at}]",
        )
    return tuple(value)


def _is_token(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _INT32


def _require_one_kind(inputs: tuple[Input, ...]) -> None:
    wanted = type(inputs[0])
    for at, each in enumerate(inputs):
        if type(each) is not wanted:
            kind = "text" if wanted is str else "token ids"
            raise InvalidRequest(
                f"`input[{at}]` should be {kind}, as `input[0]` is.", param=f"input[{at}]"
            )


def _require_few(inputs: tuple[Input, ...]) -> None:
    most, what = (
        (MAX_CHARACTERS, "characters") if isinstance(inputs[0], str) else (MAX_TOKENS, "tokens")
    )
    if sum(map(len, inputs)) > most:
        raise InvalidRequest(f"`input` has more than {most} {what} in all.", param="input")
