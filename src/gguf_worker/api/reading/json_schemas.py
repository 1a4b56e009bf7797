"""JSON schemas for the OpenAPI document, where a field's check says too little or too much."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gguf_worker.api.reading.bounds import MAX_INT32

JsonSchema = Mapping[str, Any]

TEXT: JsonSchema = {"type": "string"}
SOME_TEXT: JsonSchema = {"type": "string", "minLength": 1}
ANY_OBJECT: JsonSchema = {"type": "object"}


def list_of(items: JsonSchema, most: int | None = None) -> JsonSchema:
    """Return the schema of a list that has 1 to `most` items."""
    limit = {} if most is None else {"maxItems": most}
    return {"type": "array", "items": items, "minItems": 1, **limit}


SOME_TOKENS = list_of({"type": "integer", "minimum": 0, "maximum": MAX_INT32})
