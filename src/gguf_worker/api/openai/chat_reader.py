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
    long_names: bool = False,
    warnings: Sequence[str] = (),
) -> GenerationCall:
    """Read a chat's body; with `long_names` the names of tools may have 128 characters, not 64.

    `warnings`: what is to be said beside what is found here.
    """
    fields = SentFields(body)
    fields.warnings += warnings
    logprobs = fields.checked(ChatLogprobs).wanted()
    return read_generation(
        fields,
        ("messages",),
        id=id,
        deadline=deadline,
        logprobs=logprobs,
        long_names=long_names,
    )


def read_as_chat(
    body: Mapping[str, Any],
    words: DialectWords,
    *,
    id: str,
    deadline: float | None,
    long_names: bool = False,
    warnings: Sequence[str] = (),
) -> GenerationCall:
    """Read a body that was rewritten as a chat's; `words` translate its faults."""
    with words.translated():
        call = read_chat(body, id=id, deadline=deadline, long_names=long_names, warnings=warnings)
    found = map(words.sentence, call.warnings[len(warnings) :])
    return replace(
        call,
        warnings=(*warnings, *found),
        grammar_field=words.path(call.grammar_field or "") or None,
    )
