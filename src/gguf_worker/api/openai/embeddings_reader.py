"""The reader of /v1/embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from gguf_worker.api.reading import (
    MAX_CHARACTERS,
    MAX_INT32,
    MAX_TOKENS,
    SOME_TEXT,
    SOME_TOKENS,
    JsonSchema,
    StrictModel,
    User,
    list_of,
    read_model,
    refuse_foreign,
)
from gguf_worker.errors import InvalidRequest
from gguf_worker.providers import EmbeddingRequest

MAX_INPUTS = 2048
"""Inputs of one body, OpenAI's own limit."""

_FOREIGN = {
    "truncate": "shorten the inputs",
    "truncate_prompt_tokens": "shorten the inputs",
}

EmbeddingInput = str | tuple[int, ...]


class EmbeddingsBody(StrictModel):
    """The body of /v1/embeddings."""

    DOCUMENTED_AS: ClassVar[Mapping[str, JsonSchema]] = {
        "input": {
            "anyOf": [
                SOME_TEXT,
                SOME_TOKENS,
                list_of(SOME_TEXT, MAX_INPUTS),
                list_of(SOME_TOKENS, MAX_INPUTS),
            ]
        }
    }

    model: str | None = None
    input: Any
    """Checked by hand, so that a fault names its place in the list."""
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1, le=MAX_INT32)] | None = None
    user: User | None = None
    normalize: Literal[True] = True
    """Other servers' field for vectors of length 1, which are always sent here."""
    embd_normalize: Literal[2] = 2
    """llama.cpp's field for the same."""


@dataclass(frozen=True, slots=True)
class EmbeddingsCall:
    """A checked body. `base64`: write the vectors as base64, not as lists of numbers."""

    model: str | None
    request: EmbeddingRequest
    base64: bool
    warnings: tuple[str, ...] = ()


def read_embeddings(body: Mapping[str, Any], *, id: str, deadline: float | None) -> EmbeddingsCall:
    """Read the body of /v1/embeddings. An InvalidRequest names a wrong input by its index."""
    refuse_foreign(body, _FOREIGN)
    sent, warnings = read_model(body, EmbeddingsBody)
    request = EmbeddingRequest(id, _inputs(sent.input), sent.dimensions, deadline)
    return EmbeddingsCall(sent.model, request, sent.encoding_format == "base64", warnings)


def _inputs(value: Any) -> tuple[EmbeddingInput, ...]:
    """Return OpenAI's four forms as one: a text, token ids, or a list of either kind."""
    inputs: tuple[EmbeddingInput, ...]
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


def _input(value: Any, path: str) -> EmbeddingInput:
    if not isinstance(value, str | list):
        raise InvalidRequest(f"`{path}` should be text or token ids.", param=path)
    if not value:
        raise InvalidRequest(f"`{path}` is empty.", param=path)
    if isinstance(value, str):
        return value
    # Millions are checked in a quarter of the time without a Python step for each.
    if set(map(type, value)) != {int} or min(value) < 0 or max(value) > MAX_INT32:
        at = next(at for at, token in enumerate(value) if not _is_token(token))
        raise InvalidRequest(
            f"`{path}[{at}]` should be a token id, a whole number from 0.",
            param=f"{path}[{at}]",
        )
    return tuple(value)


def _is_token(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_INT32


def _require_one_kind(inputs: tuple[EmbeddingInput, ...]) -> None:
    wanted = type(inputs[0])
    for at, each in enumerate(inputs):
        if type(each) is not wanted:
            kind = "text" if wanted is str else "token ids"
            raise InvalidRequest(
                f"`input[{at}]` should be {kind}, as `input[0]` is.", param=f"input[{at}]"
            )


def _require_few(inputs: tuple[EmbeddingInput, ...]) -> None:
    most, unit = (
        (MAX_CHARACTERS, "characters") if isinstance(inputs[0], str) else (MAX_TOKENS, "tokens")
    )
    if sum(map(len, inputs)) > most:
        raise InvalidRequest(f"`input` has more than {most} {unit} in all.", param="input")
