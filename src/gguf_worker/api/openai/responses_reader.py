"""The reader of /v1/responses: a stateless request, which becomes a chat.

Nothing is stored here, so a reference to a stored response is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)

from gguf_worker.api.openai.chat_reader import read_as_chat
from gguf_worker.api.openai.responses_items import chat_turns
from gguf_worker.api.openai.responses_tools import chat_choice, chat_tools
from gguf_worker.api.reading import (
    ANY_OBJECT,
    MAX_INT32,
    MAX_MESSAGES,
    MAX_NAME,
    MAX_TOP_LOGPROBS,
    TEXT,
    DialectWords,
    GenerationCall,
    JsonSchema,
    Placeholders,
    StrictModel,
    field_fault,
    read_model,
    refuse_foreign,
)
from gguf_worker.errors import InvalidRequest

MAX_METADATA = 16

LOGPROBS = "message.output_text.logprobs"

_WHOLE = "this version stores nothing: send the whole conversation as `input`"

RESPONSES_FOREIGN = {
    "messages": "send `input`",
    "max_tokens": "send `max_output_tokens`",
    "max_completion_tokens": "send `max_output_tokens`",
    "response_format": "send `text.format`",
    "reasoning_effort": "send `reasoning.effort`",
    "logprobs": f"send {LOGPROBS!r} in `include`",
    "n": "a request has one answer",
    "best_of": "a request has one answer",
    "previous_response_id": _WHOLE,
    "conversation": _WHOLE,
    "prompt": "no prompts are stored here: send `instructions` and `input`",
    "moderation": "nothing is moderated here",
}
"""Refused fields of chat completions or of OpenAI's own service, with what to do instead."""

RESPONSES_WORDS = DialectWords(
    (
        (r"messages(\[.*)?$", "input"),
        (r"max_tokens$", "max_output_tokens"),
        (r"tools\[(\d+)\]\.(function|custom)", r"tools[\1]"),
        (r"tool_choice\.(function|custom|allowed_tools)", "tool_choice"),
        (r"response_format(\.json_schema)?", "text.format"),
        (r"reasoning_effort$", "reasoning.effort"),
        (r"logprobs$", "include"),
    )
)


class ReasoningFields(StrictModel):
    """The thought itself is in the answer; a `summary` of it is not made."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None
    mode: Literal["standard"] | None = None
    context: Literal["auto"] | None = None


class TextFormat(StrictModel):
    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    described: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    description: str | None = None
    strict: bool | None = None

    @model_validator(mode="after")
    def _whole(self) -> TextFormat:
        if self.type == "json_schema" and (self.name is None or self.described is None):
            raise field_fault("has the type json_schema, so it needs `name` and `schema`")
        return self


class TextFields(StrictModel):
    format: TextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


def _items(value: Any) -> Any:
    return [{"role": "user", "content": value}] if isinstance(value, str) else value


def _foreground(value: bool) -> bool:
    if value:
        raise field_fault(
            "should be false: this version answers no request later; wait for the answer, or "
            "stream it"
        )
    return value


def _few(value: Any) -> Any:
    # Checked before the entries: pydantic would collect a fault of each.
    if isinstance(value, dict) and len(value) > MAX_METADATA:
        raise field_fault(f"should have at most {MAX_METADATA} entries")
    return value


MetadataKey = Annotated[str, StringConstraints(max_length=64)]
MetadataText = Annotated[str, StringConstraints(max_length=512)]
_INCLUDABLE = frozenset(
    {
        LOGPROBS,
        # Reasoning is sent as plain text, and can be sent back as such.
        "reasoning.encrypted_content",
        # Fields of items that are never made here.
        "code_interpreter_call.outputs",
        "computer_call_output.output.image_url",
        "file_search_call.results",
        "message.input_image.image_url",
        "web_search_call.action.sources",
        "web_search_call.results",
    }
)


class ResponsesBody(StrictModel):
    """The fields of /v1/responses that a chat completion lacks, or has in another form."""

    DOCUMENTED_AS: ClassVar[Mapping[str, JsonSchema]] = {
        "input": {"anyOf": [TEXT, {"type": "array", "items": ANY_OBJECT}]}
    }

    input: Annotated[list[Any], BeforeValidator(_items), Field(max_length=MAX_MESSAGES)]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=MAX_INT32)] | None = None
    reasoning: ReasoningFields = ReasoningFields()
    text: TextFields = TextFields()
    tools: list[Any] = Field(default=[])
    tool_choice: Any = "auto"
    include: Annotated[list[str], Field(max_length=16)] = Field(default=[])
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] = 0
    metadata: Annotated[
        dict[MetadataKey, MetadataText], Field(max_length=MAX_METADATA), BeforeValidator(_few)
    ] = Field(default={})
    truncation: Literal["auto", "disabled"] = "disabled"
    background: Annotated[
        bool, AfterValidator(_foreground), WithJsonSchema({"type": "boolean", "const": False})
    ] = False
    store: bool = False
    """No effect: this version stores nothing."""
    context_management: Any = None
    """No effect: the input is used as it was sent."""
    max_tool_calls: int | None = None
    """No effect: it counts calls of built-in tools."""
    prompt_cache_key: str | None = None
    """No effect, like the two below: common prefixes of prompts are always shared."""
    prompt_cache_retention: str | None = None
    prompt_cache_options: dict[str, Any] | None = None

    @property
    def wants_logprobs(self) -> bool:
        return LOGPROBS in self.include


def read_responses(body: Mapping[str, Any], *, id: str, deadline: float | None) -> GenerationCall:
    """Read the body of /v1/responses."""
    refuse_foreign(body, RESPONSES_FOREIGN)
    own, _ = read_model(body, ResponsesBody)
    if own.top_logprobs and not own.wants_logprobs:
        raise InvalidRequest(
            f"`top_logprobs` needs {LOGPROBS!r} in `include`.", param="top_logprobs"
        )
    placeholders = Placeholders()
    tools, paths = chat_tools(body, placeholders)
    messages = chat_turns(own.input, own.instructions, placeholders)
    rest = {name: each for name, each in body.items() if name not in _OWN}
    call = read_as_chat(
        rest | _chat(own) | {"messages": messages, "tools": tools},
        RESPONSES_WORDS.with_items("tools", paths),
        id=id,
        deadline=deadline,
        long_names=True,
        warnings=(*placeholders.warnings(), *_unheeded(own)),
    )
    shortened = replace(call.request, drop_oldest=own.truncation == "auto")
    return replace(call, request=shortened)


def _unheeded(own: ResponsesBody) -> Iterator[str]:
    """Yield sentences about hints that have no effect."""
    if own.store:
        yield "nothing was stored: this version keeps no responses"
    if own.context_management:
        yield "context_management was ignored: the input was used as it was sent"
    if own.text.verbosity in ("low", "high"):
        yield "text.verbosity has no effect on this model"
    for name in own.include:
        if name not in _INCLUDABLE:
            yield f"include: {name[:MAX_NAME]!r} is not known here"


_OWN = frozenset(ResponsesBody.model_fields)


def _chat(own: ResponsesBody) -> dict[str, Any]:
    """Return the same request in a chat completion's fields; None: not sent."""
    return {
        "max_tokens": own.max_output_tokens,
        "reasoning_effort": own.reasoning.effort,
        "response_format": _format(own.text.format),
        "tool_choice": chat_choice(own.tool_choice),
        "logprobs": own.wants_logprobs,
        "top_logprobs": own.top_logprobs if own.wants_logprobs else None,
    }


def _format(format: TextFormat | None) -> dict[str, Any] | None:
    if format is None:
        return None
    if format.type != "json_schema":
        return {"type": format.type}
    described = {
        "name": format.name,
        "schema": format.described,
        "description": format.description,
        "strict": format.strict,
    }
    return {"type": "json_schema", "json_schema": described}
