"""The reader of /v1/messages and /v1/messages/count_tokens: requests that become a chat.

Anthropic's turns are made of blocks. A tool's result is a block of the user's turn there, and a
message of its own in a chat; adjacent turns of one role are joined, as Anthropic joins them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, groupby
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints

from gguf_worker.api.openai import read_as_chat
from gguf_worker.api.reading import (
    ANY_OBJECT,
    MAX_MESSAGES,
    MAX_PARTS,
    MAX_STOPS,
    MAX_TOOLS,
    MAX_USER,
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

_UNSUPPORTED = "is not supported by this version"

MESSAGES_FOREIGN = {
    "max_completion_tokens": "send `max_tokens`",
    "stop": "send `stop_sequences`",
    "response_format": "send `output_config.format`",
    "reasoning_effort": "send `output_config.effort`",
    "parallel_tool_calls": "send `tool_choice.disable_parallel_tool_use`",
    "user": "send `metadata.user_id`",
    "safety_identifier": "send `metadata.user_id`",
    "n": "a request has one answer",
    "best_of": "a request has one answer",
    "logprobs": "a message cannot carry them",
    "top_logprobs": "a message cannot carry them",
    "container": "nothing is run here",
    "mcp_servers": "nothing is called from here",
}
"""Refused fields of chat completions or of Anthropic's own service, with what to do instead."""

MESSAGES_WORDS = DialectWords(
    (
        (r"messages(\[.*)?$", "messages"),
        (r"stop(?=$|\[)", "stop_sequences"),
        (r"tools\[(\d+)\]\.function\.parameters", r"tools[\1].input_schema"),
        (r"tools\[(\d+)\]\.function", r"tools[\1]"),
        (r"tool_choice\.function", "tool_choice"),
        (r"response_format(\.json_schema)?", "output_config.format"),
        (r"reasoning_effort$", "output_config.effort"),
        (r"user$", "metadata.user_id"),
    )
)


class TextBlock(StrictModel):
    type: Literal["text"]
    text: str


class ToolUseBlock(StrictModel):
    id: Annotated[str, StringConstraints(min_length=1)]
    name: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    input: dict[str, Any]


class ThinkingBlock(StrictModel):
    thinking: str


def _blocks(value: Any) -> Any:
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


TextBlocks = Annotated[list[TextBlock], BeforeValidator(_blocks), Field(max_length=MAX_PARTS)]


class ToolResultBlock(StrictModel):
    tool_use_id: Annotated[str, StringConstraints(min_length=1)]
    content: TextBlocks = Field(default=[])
    is_error: bool = False


_BLOCKS: Mapping[str, Mapping[str, type[StrictModel]]] = {
    "system": {"text": TextBlock},
    "user": {"text": TextBlock, "tool_result": ToolResultBlock},
    "assistant": {"text": TextBlock, "tool_use": ToolUseBlock, "thinking": ThinkingBlock},
}


class AnthropicMessage(StrictModel):
    role: Literal["user", "assistant", "system"]
    content: Annotated[
        list[Any], BeforeValidator(_blocks), Field(min_length=1, max_length=MAX_PARTS)
    ]


class AnthropicTool(StrictModel):
    type: Literal["custom"] = "custom"
    name: ToolName
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None
    input_examples: Annotated[list[Any] | None, Field(max_length=0)] = None


class AnthropicToolChoice(StrictModel):
    type: Literal["auto", "any", "none", "tool"] = "auto"
    name: ToolName | None = None
    disable_parallel_tool_use: bool | None = None


class ThinkingFields(StrictModel):
    """`budget_tokens` has no effect: only `max_tokens` limits how long a model thinks."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[int, Field(ge=1)] | None = None
    display: Literal["summarized"] | None = None


class OutputFormat(StrictModel):
    type: Literal["json_schema"]
    described: Annotated[dict[str, Any], Field(alias="schema")]


class OutputConfig(StrictModel):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class AnthropicMetadata(StrictModel):
    user_id: Annotated[str, StringConstraints(max_length=4096)] | None = None


class ContextManagement(StrictModel):
    edits: list[Any] = Field(default=[])

    @property
    def changes(self) -> bool:
        """True if the edits would leave a turn out of the chat."""
        return any(not isinstance(e, Mapping) or e.get("keep") != "all" for e in self.edits)


def _unchanged(value: ContextManagement) -> ContextManagement:
    if value.changes:
        raise field_fault(f"would leave out parts of the chat, which {_UNSUPPORTED}")
    return value


class MessagesBody(StrictModel):
    """The fields of /v1/messages that a chat completion lacks, or has in another form."""

    DOCUMENTED_AS: ClassVar[Mapping[str, JsonSchema]] = {
        "messages": {
            **list_of(ANY_OBJECT),
            "examples": [[{"role": "user", "content": "How many days are in a week?"}]],
        },
        "system": {"anyOf": [TEXT, {"type": "array", "items": ANY_OBJECT}]},
    }

    messages: Annotated[list[Any], Field(min_length=1, max_length=MAX_MESSAGES)]
    system: TextBlocks = Field(default=[])
    stop_sequences: Annotated[list[str], Field(max_length=MAX_STOPS)] = Field(default=[])
    tools: Annotated[list[Any], Field(max_length=MAX_TOOLS)] = Field(default=[])
    tool_choice: AnthropicToolChoice = AnthropicToolChoice()
    thinking: ThinkingFields | None = None
    output_config: OutputConfig = OutputConfig()
    metadata: AnthropicMetadata = AnthropicMetadata()
    context_management: Annotated[ContextManagement | None, AfterValidator(_unchanged)] = None
    cache_control: dict[str, Any] | None = None
    """No effect, here and in every block: common prefixes of prompts are always shared."""


def read_messages(body: Mapping[str, Any], *, id: str, deadline: float | None) -> GenerationCall:
    """Read the body of /v1/messages."""
    if body.get("max_tokens") is None:
        raise InvalidRequest("`max_tokens` is missing.", param="max_tokens")
    call = read_token_count(body, id=id, deadline=deadline)
    messages = call.request.messages or ()
    if messages[-1]["role"] == "assistant":
        raise InvalidRequest(
            "`messages` ends with the assistant's turn; to go on from its text "
            f"{_UNSUPPORTED}. End with the user's.",
            param="messages",
        )
    return call


def read_token_count(body: Mapping[str, Any], *, id: str, deadline: float | None) -> GenerationCall:
    """Read the body of /v1/messages/count_tokens: that of /v1/messages, without `max_tokens`."""
    refuse_foreign(body, MESSAGES_FOREIGN)
    own, _ = read_model(body, MessagesBody)
    rest = {name: each for name, each in body.items() if name not in _OWN}
    options = rest.get("chat_template_kwargs")
    if options is None or isinstance(options, dict):
        rest["chat_template_kwargs"] = _thinking(own.thinking) | (options or {})
    chat = rest | _chat(own)
    return read_as_chat(chat, MESSAGES_WORDS, id=id, deadline=deadline)


_OWN = frozenset(MessagesBody.model_fields)


def _thinking(think: ThinkingFields | None) -> dict[str, Any]:
    """Return the template's options; none if the model is to decide for itself."""
    if think is None or think.type == "adaptive":
        return {}
    return {"enable_thinking": think.type == "enabled"}


def _chat(own: MessagesBody) -> dict[str, Any]:
    """Return the same request in a chat completion's fields; None: not sent."""
    return {
        "messages": _messages(own),
        "stop": own.stop_sequences,
        "tools": list(_tools(own.tools)),
        "tool_choice": _choice(own.tool_choice),
        "parallel_tool_calls": not own.tool_choice.disable_parallel_tool_use,
        "reasoning_effort": own.output_config.effort,
        "response_format": _format(own.output_config.format),
        "user": _user(own.metadata.user_id),
    }


def _tools(tools: Sequence[Any]) -> Iterator[dict[str, Any]]:
    for at, each in enumerate(tools):
        tool = checked_part(AnthropicTool, each, f"tools[{at}]")
        function = tool.model_dump(exclude_none=True, include={"name", "description", "strict"})
        yield {"type": "function", "function": function | {"parameters": tool.input_schema}}


def _choice(choice: AnthropicToolChoice) -> Any:
    if choice.type != "tool":
        return {"any": "required"}.get(choice.type, choice.type)
    if choice.name is None:
        raise InvalidRequest("`tool_choice.name` is missing.", param="tool_choice.name")
    return {"type": "function", "function": {"name": choice.name}}


def _format(format: OutputFormat | None) -> dict[str, Any] | None:
    if format is None:
        return None
    return {
        "type": "json_schema",
        "json_schema": {"name": "output", "schema": format.described},
    }


def _user(id: str | None) -> str | None:
    """Return the user's id, hashed if it is long: it only has to tell users apart."""
    if id is None or len(id) <= MAX_USER:
        return id
    return hashlib.sha256(id.encode()).hexdigest()


def _messages(own: MessagesBody) -> list[dict[str, Any]]:
    # `system` counts as the first message: many templates refuse a second system message.
    read = chain((("system", block) for block in own.system), _read_blocks(own.messages))
    turns: list[dict[str, Any]] = []
    for role, group in groupby(read, key=lambda each: each[0]):
        turns += _TURNS[role]([block for _, block in group])
    return turns


def _read_blocks(messages: Sequence[Any]) -> Iterator[tuple[str, StrictModel]]:
    """Yield each block of all messages, with its role."""
    for at, each in enumerate(messages):
        message = checked_part(AnthropicMessage, each, f"messages[{at}]")
        for number, block in enumerate(message.content):
            path = f"messages[{at}].content[{number}]"
            yield message.role, _block(block, _BLOCKS[message.role], path)


def _block(block: Any, models: Mapping[str, type[StrictModel]], path: str) -> StrictModel:
    kind = block.get("type") if isinstance(block, Mapping) else None
    model = models.get(kind) if isinstance(kind, str) else None
    if model is None:
        raise InvalidRequest(
            f"`{path}.type` should be one of: {', '.join(models)}.", param=f"{path}.type"
        )
    return checked_part(model, block, path)


def _systems(blocks: Sequence[StrictModel]) -> Iterable[dict[str, Any]]:
    return [{"role": "system", "content": _joined(blocks, "\n\n")}]


def _users(blocks: Sequence[StrictModel]) -> Iterable[dict[str, Any]]:
    for spoken, group in groupby(blocks, key=lambda block: isinstance(block, TextBlock)):
        some = list(group)
        yield from [{"role": "user", "content": _joined(some)}] if spoken else map(_result, some)


def _result(block: StrictModel) -> dict[str, Any]:
    assert isinstance(block, ToolResultBlock)
    text = "\n".join(part.text for part in block.content)
    # A chat's message has no field for a tool's failure.
    content = f"Error: {text}" if block.is_error else text
    return {"role": "tool", "tool_call_id": block.tool_use_id, "content": content}


def _assistants(blocks: Sequence[StrictModel]) -> Iterable[dict[str, Any]]:
    thoughts = [block.thinking for block in blocks if isinstance(block, ThinkingBlock)]
    calls = [_call(block) for block in blocks if isinstance(block, ToolUseBlock)]
    text = _joined([block for block in blocks if isinstance(block, TextBlock)])
    turn: dict[str, Any] = {"role": "assistant", "content": text or None}
    if any(thoughts):
        turn["reasoning_content"] = "\n".join(thoughts)
    if calls:
        turn["tool_calls"] = calls
    return [turn]


_TURNS = {"system": _systems, "user": _users, "assistant": _assistants}


def _call(block: ToolUseBlock) -> dict[str, Any]:
    arguments = msgspec.json.encode(block.input).decode()
    function = {"name": block.name, "arguments": arguments}
    return {"id": block.id, "type": "function", "function": function}


def _joined(blocks: Sequence[StrictModel], between: str = "\n") -> str:
    return between.join(block.text for block in blocks if isinstance(block, TextBlock))
