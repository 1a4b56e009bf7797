"""The reader of a job's own input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gguf_worker.api.reading import (
    ChatLogprobs,
    GenerationCall,
    JobFields,
    SentFields,
    read_generation,
)


def read_native(body: Mapping[str, Any], *, id: str, deadline: float | None) -> GenerationCall:
    """Read `prompt` or `messages`, with settings beside them or nested in `sampling_params`."""
    fields = SentFields(body, nested=True)
    fields.checked(JobFields)
    logprobs = fields.checked(ChatLogprobs).wanted()
    return read_generation(
        fields, ("prompt", "messages"), id=id, deadline=deadline, logprobs=logprobs
    )
