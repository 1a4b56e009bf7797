"""The readers and writers of /api/embed and of its older form, /api/embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from gguf_worker.api.openai import EmbeddingsCall, read_embeddings, write_embeddings
from gguf_worker.api.reading import (
    MAX_INT32,
    SOME_TEXT,
    DialectWords,
    JsonSchema,
    StrictModel,
    list_of,
    read_model,
)
from gguf_worker.providers import Embeddings, ModelCard

_OLDER_WORDS = DialectWords(((r"input", "prompt"),))


class OllamaEmbeddingFields(StrictModel):
    """The fields that both forms have in common."""

    model: str | None = None
    options: dict[str, Any] = Field(default={})
    """A hint: they set up Ollama's own server."""
    keep_alive: Any = None
    """A hint: which models stay in memory is the worker's own affair."""


class OllamaEmbedBody(OllamaEmbeddingFields):
    """The body of /api/embed."""

    DOCUMENTED_AS: ClassVar[Mapping[str, JsonSchema]] = {
        "input": {"anyOf": [SOME_TEXT, list_of(SOME_TEXT)]}
    }

    input: Any
    truncate: bool | None = None
    """A hint: a text that is too long is refused."""
    dimensions: Annotated[int, Field(ge=1, le=MAX_INT32)] | None = None


class OllamaEmbeddingBody(OllamaEmbeddingFields):
    """The body of /api/embeddings."""

    prompt: Annotated[str, Field(min_length=1)]


def read_embed(body: Mapping[str, Any], *, id: str, deadline: float | None) -> EmbeddingsCall:
    """Read the body of /api/embed."""
    own, warnings = read_model(body, OllamaEmbedBody)
    sent = {"model": own.model, "input": own.input, "dimensions": own.dimensions}
    return _read(sent, warnings, id, deadline)


def read_one_embedding(
    body: Mapping[str, Any], *, id: str, deadline: float | None
) -> EmbeddingsCall:
    """Read the body of /api/embeddings."""
    own, warnings = read_model(body, OllamaEmbeddingBody)
    with _OLDER_WORDS.translated():
        return _read({"model": own.model, "input": own.prompt}, warnings, id, deadline)


async def write_embed(
    embeddings: Embeddings, call: EmbeddingsCall, card: ModelCard
) -> dict[str, Any]:
    """Return the vectors of /api/embed."""
    whole = await write_embeddings(embeddings, call, card)
    vectors = [each["embedding"] for each in whole["data"]]
    return {
        "model": card.name,
        "embeddings": vectors,
        "prompt_eval_count": embeddings.prompt_tokens,
    }


async def write_one_embedding(
    embeddings: Embeddings, call: EmbeddingsCall, card: ModelCard
) -> dict[str, Any]:
    """Return the one vector of /api/embeddings."""
    whole = await write_embeddings(embeddings, call, card)
    return {"embedding": whole["data"][0]["embedding"]}


def _read(
    sent: dict[str, Any], warnings: tuple[str, ...], id: str, deadline: float | None
) -> EmbeddingsCall:
    call = read_embeddings(sent, id=id, deadline=deadline)
    return EmbeddingsCall(call.model, call.request, call.base64, (*warnings, *call.warnings))
