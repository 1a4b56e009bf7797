"""The reader of /api/generate: a chat of one turn, or a prompt that is continued as it stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field

from gguf_worker.api.ollama.chat_reader import LOADING
from gguf_worker.api.ollama.shared_fields import OLLAMA_WORDS, OllamaFields
from gguf_worker.api.openai import read_as_chat
from gguf_worker.api.reading import (
    MAX_PARTS,
    ChatLogprobs,
    DialectWords,
    GenerationCall,
    SentFields,
    read_generation,
    read_model,
)
from gguf_worker.errors import InvalidRequest

_WORDS = DialectWords(((r"messages(\[\d+\](\.content)?)?", "prompt"), *OLLAMA_WORDS.patterns))

_NOT_DONE = {
    "template": "has no effect here: the model's own template is used. Leave it out, or send the "
    "whole prompt with `raw`",
    "context": "is not supported: no answer has it. Send the turns as `messages` to /api/chat",
    "images": "are not supported by this version, and this model reads text only; leave them out",
}
"""Fields that would change the answer and cannot be followed, with what to do instead."""


class OllamaGenerateBody(OllamaFields):
    """The body of /api/generate."""

    prompt: str = ""
    suffix: str = ""
    system: str = ""
    template: str = ""
    raw: bool = False
    context: list[int] = Field(default=[])
    images: Annotated[list[Any], Field(max_length=MAX_PARTS)] = Field(default=[])


def read_ollama_generate(
    body: Mapping[str, Any], *, id: str, deadline: float | None
) -> GenerationCall:
    """Read the body of /api/generate. Without a prompt, it only asks for the model."""
    own, unknown = read_model(body, OllamaGenerateBody)
    _require_doable(own)
    warnings = [*unknown, *own.option_warnings()]
    if not own.prompt and not own.suffix:
        chat = {**own.completion_fields(), **LOADING}
    elif own.raw or own.suffix:
        return _read_prompt(own, warnings, id, deadline)
    else:
        chat = own.completion_fields() | own.thought_fields() | {"messages": _messages(own)}
    return read_as_chat(chat, _WORDS, id=id, deadline=deadline, warnings=warnings)


def _require_doable(own: OllamaGenerateBody) -> None:
    for name, reason in _NOT_DONE.items():
        if getattr(own, name):
            raise InvalidRequest(f"`{name}` {reason}.", param=name)
    if own.system and (own.raw or own.suffix):
        raise InvalidRequest(
            "`system` has no place here: a prompt that is `raw`, or has a `suffix`, is read as it "
            "stands.",
            param="system",
        )
    if own.suffix and not own.prompt:
        raise InvalidRequest("`suffix` needs a `prompt`.", param="suffix")


def _messages(own: OllamaGenerateBody) -> list[dict[str, Any]]:
    system = [{"role": "system", "content": own.system}] if own.system else []
    return [*system, {"role": "user", "content": own.prompt}]


def _read_prompt(
    own: OllamaGenerateBody, warnings: Sequence[str], id: str, deadline: float | None
) -> GenerationCall:
    sent = own.completion_fields() | {"prompt": own.prompt, "suffix": own.suffix}
    with OLLAMA_WORDS.translated():
        fields = SentFields(sent)
        fields.warnings += warnings
        if own.think:
            fields.warnings.append("`think` has no effect on a prompt that is read as it stands")
        logprobs = fields.checked(ChatLogprobs).wanted()
        call = read_generation(fields, ("prompt",), id=id, deadline=deadline, logprobs=logprobs)
    return replace(call, grammar_field=OLLAMA_WORDS.path(call.grammar_field or "") or None)
