"""The reader of /v1/messages and /v1/messages/count_tokens: requests that become a chat."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, StringConstraints

from gguf_worker.api.anthropic.messages_blocks import TextBlocks, chat_turns
from gguf_worker.api.anthropic.messages_tools import chat_tools, example_warnings
from gguf_worker.api.openai import read_as_chat
from gguf_worker.api.reading import (
    ANY_OBJECT,
    MAX_INT32,
    MAX_MESSAGES,
    MAX_STOPS,
    MAX_USER,
    TEXT,
    DialectWords,
    GenerationCall,
    JsonSchema,
    Placeholders,
    StrictModel,
    ToolName,
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
    "prompt_logprobs": "a message cannot carry them",
    "container": "nothing is run here",
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


class AnthropicToolChoice(StrictModel):
    type: Literal["auto", "any", "none", "tool"] = "auto"
    name: ToolName | None = None
    disable_parallel_tool_use: bool | None = None


class ThinkingFields(StrictModel):
    """With `adaptive` the model decides."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[int, Field(ge=1, le=MAX_INT32)] | None = None
    display: Literal["summarized", "omitted"] | None = None


class OutputFormat(StrictModel):
    type: Literal["json_schema"]
    described: Annotated[dict[str, Any], Field(alias="schema")]


class OutputConfig(StrictModel):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class AnthropicMetadata(StrictModel):
    user_id: Annotated[str, StringConstraints(max_length=4096)] | None = None


def _none(value: list[Any]) -> list[Any]:
    if value:
        raise field_fault("should be empty: nothing is called from here; leave it out")
    return value


class MessagesBody(StrictModel):
    """The fields of /v1/messages that a chat completion lacks, or has in another form."""

    DOCUMENTED_AS: ClassVar[Mapping[str, JsonSchema]] = {
        "messages": {
            **list_of(ANY_OBJECT),
            "examples": [[{"role": "user", "content": "How many days are in a week?"}]],
        },
        "system": {"anyOf": [TEXT, {"type": "array", "items": ANY_OBJECT}]},
        "max_tokens": {
            "anyOf": [{"const": -1}, {"type": "integer", "minimum": 0, "maximum": MAX_INT32}]
        },
    }

    messages: Annotated[list[Any], Field(min_length=1, max_length=MAX_MESSAGES)]
    system: TextBlocks = Field(default=[])
    stop_sequences: Annotated[list[str], Field(max_length=MAX_STOPS)] = Field(default=[])
    tools: list[Any] = Field(default=[])
    tool_choice: AnthropicToolChoice = AnthropicToolChoice()
    thinking: ThinkingFields | None = None
    output_config: OutputConfig = OutputConfig()
    metadata: AnthropicMetadata = AnthropicMetadata()
    context_management: Any = None
    """No effect: the conversation is used as it was sent."""
    mcp_servers: Annotated[list[Any], AfterValidator(_none)] = Field(default=[])
    cache_control: dict[str, Any] | None = None
    """No effect, here and in every block: common prefixes of prompts are always shared."""


def read_messages(body: Mapping[str, Any], *, id: str, deadline: float | None) -> GenerationCall:
    """Read the body of /v1/messages."""
    if body.get("max_tokens") is None:
        raise InvalidRequest("`max_tokens` is missing.", param="max_tokens")
    return read_token_count(body, id=id, deadline=deadline)


def read_token_count(body: Mapping[str, Any], *, id: str, deadline: float | None) -> GenerationCall:
    """Read the body of /v1/messages/count_tokens: that of /v1/messages, without `max_tokens`."""
    refuse_foreign(body, MESSAGES_FOREIGN)
    own, _ = read_model(body, MessagesBody)
    rest = {name: each for name, each in body.items() if name not in _OWN}
    placeholders = Placeholders()
    tools, paths = chat_tools(body, placeholders)
    messages = chat_turns(own.messages, own.system, placeholders)
    return read_as_chat(
        rest | _chat(own) | {"messages": messages, "tools": tools},
        MESSAGES_WORDS.with_items("tools", paths),
        id=id,
        deadline=deadline,
        warnings=(*placeholders.warnings(), *_unheeded(own)),
    )


def _unheeded(own: MessagesBody) -> Iterator[str]:
    """Yield sentences about hints that have no effect."""
    yield from example_warnings(own.tools)
    management = own.context_management
    edits = management.get("edits") if isinstance(management, Mapping) else None
    for each in edits if isinstance(edits, list) else ():
        if not isinstance(each, Mapping) or each.get("keep") != "all":
            yield "context_management was ignored: the conversation was used as it was sent"


_OWN = frozenset(MessagesBody.model_fields)


def _chat(own: MessagesBody) -> dict[str, Any]:
    """Return the same request in a chat completion's fields; None: not sent."""
    return {
        "stop": own.stop_sequences,
        "tool_choice": _choice(own.tool_choice),
        "parallel_tool_calls": not own.tool_choice.disable_parallel_tool_use,
        "reasoning_effort": own.output_config.effort,
        "thinking": _thinking(own.thinking),
        "response_format": _format(own.output_config.format),
        "user": _user(own.metadata.user_id),
    }


def _thinking(thinking: ThinkingFields | None) -> dict[str, Any] | None:
    return thinking.model_dump(include={"type", "budget_tokens"}) if thinking else None


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
