"""The reader of /v1/completions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gguf_worker.api.reading import (
    AnswerFormat,
    CommonFields,
    CompletionLogprobs,
    GenerationCall,
    PromptFields,
    SamplerFields,
    SentFields,
    read_generation,
)

COMPLETION_MODELS = (PromptFields, CommonFields, SamplerFields, CompletionLogprobs, AnswerFormat)
"""The models that together check a completion's body."""


def read_completion(body: Mapping[str, Any], *, id: str, deadline: float | None) -> GenerationCall:
    """Read a completion's body."""
    fields = SentFields(body)
    logprobs = fields.checked(CompletionLogprobs).logprobs
    return read_generation(fields, ("prompt",), id=id, deadline=deadline, logprobs=logprobs)
