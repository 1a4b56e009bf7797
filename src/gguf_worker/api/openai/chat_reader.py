"""The reader of /v1/chat/completions, and of bodies that were rewritten as a chat's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from gguf_worker.api.reading import (
    AnswerFormat,
    ChatFields,
    ChatLogprobs,
    CommonFields,
    DialectWords,
    GenerationCall,
    SamplerFields,
    SentFields,
    ToolFields,
    read_generation,
)

CHAT_MODELS = (ChatFields, CommonFields, SamplerFields, ChatLogprobs, ToolFields, AnswerFormat)
"""The models that together check a chat's body."""


def read_chat(
    body: Mapping[str, Any],
    *,
    id: str,
    deadline: float | None,
    warnings: Sequence[str] = (),
) -> GenerationCall:
    """Read a chat's body. `warnings`: what is to be said beside what is found here."""
    fields = SentFields(body)
    fields.warnings += warnings
    logprobs = fields.checked(ChatLogprobs).wanted()
    return read_generation(
        fields,
        ("messages",),
        id=id,
        deadline=deadline,
        logprobs=logprobs,
    )


def read_as_chat(
    body: Mapping[str, Any],
    words: DialectWords,
    *,
    id: str,
    deadline: float | None,
    warnings: Sequence[str] = (),
) -> GenerationCall:
    """Read a body that was rewritten as a chat's; `words` translate its faults."""
    with words.translated():
        call = read_chat(body, id=id, deadline=deadline, warnings=warnings)
    found = map(words.sentence, call.warnings[len(warnings) :])
    return replace(
        call,
        warnings=(*warnings, *found),
        grammar_field=words.path(call.grammar_field or "") or None,
    )
