"""The reader of /v1/responses: a stateless request, which becomes a chat.

`input` items become messages: those of one turn of the assistant (a thought, text, calls) are
joined again. Nothing is stored here, so a reference to something stored is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from gguf_worker.api.reading import (
    ANY_OBJECT,
    MAX_INT32,
    MAX_MESSAGES,
    MAX_PARTS,
    MAX_TOOLS,
    MAX_TOP_LOGPROBS,
    TEXT,
    DialectWords,
    GenerationCall,
    JsonSchema,
    StrictModel,
    ToolName,
    checked_part,
    field_fault,
    list_of,
    read_model,
    refuse_foreign,
)
from gguf_worker.errors import InvalidRequest

MAX_METADATA = 16

LOGPROBS = "message.output_text.logprobs"

_WHOLE = "nothing is stored here: send the whole conversation as `input`"
_AS_SENT = "the input is used as it was sent"

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
    "context_management": _AS_SENT,
    "moderation": _AS_SENT,
}
"""Refused fields of chat completions or of OpenAI's own service, with what to do instead."""

RESPONSES_WORDS = DialectWords(
    (
        (r"messages(\[.*)?$", "input"),
        (r"max_tokens$", "max_output_tokens"),
        (r"tools\[(\d+)\]\.function", r"tools[\1]"),
        (r"tool_choice\.function", "tool_choice"),
        (r"response_format(\.json_schema)?", "text.format"),
        (r"reasoning_effort$", "reasoning.effort"),
        (r"logprobs$", "include"),
    )
)


class ResponsesPart(StrictModel):
    type: Literal["input_text", "output_text", "text", "refusal"]
    text: str | None = None
    refusal: str | None = None

    @model_validator(mode="after")
    def _whole(self) -> ResponsesPart:
        if self.said is None:
            raise field_fault("has no text")
        return self

    @property
    def said(self) -> str | None:
        return self.refusal if self.type == "refusal" else self.text


def _parts(value: Any) -> Any:
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


ResponsesParts = Annotated[
    list[ResponsesPart], BeforeValidator(_parts), Field(min_length=1, max_length=MAX_PARTS)
]


class ResponsesMessage(StrictModel):
    role: Literal["user", "assistant", "system", "developer"]
    content: ResponsesParts


class ResponsesCall(StrictModel):
    call_id: Annotated[str, StringConstraints(min_length=1)]
    name: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    arguments: str


class ResponsesCallOutput(StrictModel):
    call_id: Annotated[str, StringConstraints(min_length=1)]
    output: ResponsesParts


class ReasoningText(StrictModel):
    text: str


class ReasoningItem(StrictModel):
    summary: Annotated[list[ReasoningText], Field(max_length=MAX_PARTS)] = Field(default=[])
    content: Annotated[list[ReasoningText], Field(max_length=MAX_PARTS)] = Field(default=[])
    encrypted_content: str | None = None

    @model_validator(mode="after")
    def _readable(self) -> ReasoningItem:
        if self.encrypted_content and not self.summary and not self.content:
            raise field_fault(
                "has only `encrypted_content`, which nobody here can read; leave it out"
            )
        return self


_ITEMS: Mapping[str, type[StrictModel]] = {
    "message": ResponsesMessage,
    "function_call": ResponsesCall,
    "function_call_output": ResponsesCallOutput,
    "reasoning": ReasoningItem,
}


class ResponsesTool(StrictModel):
    type: Literal["function"]
    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ResponsesToolChoice(StrictModel):
    type: Literal["function"]
    name: ToolName


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
        if self.type == "json_schema" and self.described is None:
            raise field_fault("has the type json_schema, so it needs a `schema`")
        return self


class TextFields(StrictModel):
    format: TextFormat | None = None
    verbosity: Literal["medium"] | None = None


def _items(value: Any) -> Any:
    return [{"role": "user", "content": value}] if isinstance(value, str) else value


def _foreground(value: bool) -> bool:
    if value:
        raise field_fault("should be false: nothing is answered later")
    return value


def _few(value: Any) -> Any:
    # Checked before the entries: pydantic would collect a fault of each.
    if isinstance(value, dict) and len(value) > MAX_METADATA:
        raise field_fault(f"should have at most {MAX_METADATA} entries")
    return value


MetadataKey = Annotated[str, StringConstraints(max_length=64)]
MetadataText = Annotated[str, StringConstraints(max_length=512)]
Includable = Literal[
    "message.output_text.logprobs",
    # Reasoning is sent as plain text, and can be sent back as such.
    "reasoning.encrypted_content",
    # Fields of items that are never made here.
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "web_search_call.action.sources",
    "web_search_call.results",
]


class ResponsesBody(StrictModel):
    """The fields of /v1/responses that a chat completion lacks, or has in another form."""

    DOCUMENTED_AS: ClassVar[Mapping[str, JsonSchema]] = {
        "input": {"anyOf": [TEXT, list_of(ANY_OBJECT)]}
    }

    input: Annotated[
        list[Any], BeforeValidator(_items), Field(min_length=1, max_length=MAX_MESSAGES)
    ]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=MAX_INT32)] | None = None
    reasoning: ReasoningFields = ReasoningFields()
    text: TextFields = TextFields()
    tools: Annotated[list[ResponsesTool], Field(max_length=MAX_TOOLS)] = Field(default=[])
    tool_choice: Any = "auto"
    include: Annotated[list[Includable], Field(max_length=16)] = Field(default=[])
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] = 0
    metadata: Annotated[
        dict[MetadataKey, MetadataText], Field(max_length=MAX_METADATA), BeforeValidator(_few)
    ] = Field(default={})
    truncation: Literal["disabled"] = "disabled"
    background: Annotated[
        bool, AfterValidator(_foreground), WithJsonSchema({"type": "boolean", "const": False})
    ] = False
    store: bool = False
    """No effect: nothing is ever stored."""
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
    rest = {name: each for name, each in body.items() if name not in _OWN}
    return read_as_chat(rest | _chat(own), RESPONSES_WORDS, id=id, deadline=deadline)


_OWN = frozenset(ResponsesBody.model_fields)


def _chat(own: ResponsesBody) -> dict[str, Any]:
    """Return the same request in a chat completion's fields; None: not sent."""
    return {
        "messages": _messages(own),
        "max_tokens": own.max_output_tokens,
        "reasoning_effort": own.reasoning.effort,
        "response_format": _format(own.text.format),
        "tools": [_tool(tool) for tool in own.tools],
        "tool_choice": _choice(own.tool_choice),
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


def _tool(tool: ResponsesTool) -> dict[str, Any]:
    return {"type": "function", "function": tool.model_dump(exclude_none=True, exclude={"type"})}


def _choice(choice: Any) -> Any:
    if isinstance(choice, str):
        return choice
    named = checked_part(ResponsesToolChoice, choice, "tool_choice")
    return {"type": "function", "function": {"name": named.name}}


def _messages(own: ResponsesBody) -> list[dict[str, Any]]:
    items = list(_read_items(own.input))
    # Several system messages at the beginning become one: many templates take no second.
    opening = list(_opening(items))
    system = [_joined(item.content) for item in opening]
    if own.instructions is not None:
        system.insert(0, own.instructions)
    turns = [{"role": "system", "content": "\n\n".join(system)}] if system else []
    for item in items[len(opening) :]:
        _add(item, turns)
    return turns


def _opening(items: Iterable[StrictModel]) -> Iterator[ResponsesMessage]:
    for item in items:
        if not isinstance(item, ResponsesMessage) or item.role not in ("system", "developer"):
            return
        yield item


def _read_items(items: Sequence[Any]) -> Iterator[StrictModel]:
    for at, item in enumerate(items):
        path = f"input[{at}]"
        given = item if isinstance(item, Mapping) else {}
        kind = given.get("type") or ("message" if "role" in given else None)
        model = _ITEMS.get(kind) if isinstance(kind, str) else None
        if model is None:
            raise InvalidRequest(
                f"`{path}.type` should be one of: {', '.join(_ITEMS)}.", param=f"{path}.type"
            )
        yield checked_part(model, item, path)


def _add(item: StrictModel, turns: list[dict[str, Any]]) -> None:
    """Add the item to the turn that it belongs to: the last one, or a new one."""
    match item:
        case ResponsesMessage(role="assistant"):
            _assistants(turns, "content", "tool_calls")["content"] = _joined(item.content)
        case ResponsesMessage():
            turns.append({"role": item.role, "content": _joined(item.content)})
        case ResponsesCall():
            function = {"name": item.name, "arguments": item.arguments}
            call = {"id": item.call_id, "type": "function", "function": function}
            _assistants(turns).setdefault("tool_calls", []).append(call)
        case ResponsesCallOutput():
            output = _joined(item.output)
            turns.append({"role": "tool", "tool_call_id": item.call_id, "content": output})
        case ReasoningItem() if thought := "\n".join(
            each.text for each in item.content or item.summary
        ):
            turn = _assistants(turns, "reasoning_content", "content", "tool_calls")
            turn["reasoning_content"] = thought


def _assistants(turns: list[dict[str, Any]], *full: str) -> dict[str, Any]:
    """Return the last turn if it is the assistant's without a field of `full`, else a new one."""
    last = turns[-1] if turns else {}
    if last.get("role") != "assistant" or any(name in last for name in full):
        last = {"role": "assistant"}
        turns.append(last)
    return last


def _joined(parts: Sequence[ResponsesPart]) -> str:
    return "\n".join(part.said or "" for part in parts)
