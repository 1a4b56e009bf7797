"""What Anthropic's /v1/messages and /v1/messages/count_tokens may be sent: requests that become a chat.

Turns are made of blocks there. A tool's result is a block of the user's, here a message of its own; turns of
one role that follow each other are one, as Anthropic has it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, groupby
from typing import Annotated, Any, Literal

import msgspec
from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints

from gguf_worker.api.schema import MAX_MESSAGES, MAX_PARTS, MAX_STOPS, MAX_USER, Request, read_shape
from gguf_worker.api.shapes import Shape, fault
from gguf_worker.api.tools import MAX_TOOLS, LongName
from gguf_worker.api.translation import Words, checked, read_translated, refuse_foreign
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
"""Fields of a chat completion, or of Anthropic's own service, that are refused, with what to do instead."""

MESSAGES_WORDS = Words(
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


class _Text(Shape):
    type: Literal["text"]
    text: str


class _ToolUse(Shape):
    id: Annotated[str, StringConstraints(min_length=1)]
    name: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    input: dict[str, Any]


class _Thinking(Shape):
    thinking: str


def _blocks(value: Any) -> Any:
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


Texts = Annotated[list[_Text], BeforeValidator(_blocks), Field(max_length=MAX_PARTS)]


class _ToolResult(Shape):
    tool_use_id: Annotated[str, StringConstraints(min_length=1)]
    content: Texts = Field(default=[])
    is_error: bool = False


_BLOCKS: Mapping[str, Mapping[str, type[Shape]]] = {
    "system": {"text": _Text},
    "user": {"text": _Text, "tool_result": _ToolResult},
    "assistant": {"text": _Text, "tool_use": _ToolUse, "thinking": _Thinking},
}


class _Message(Shape):
    role: Literal["user", "assistant", "system"]
    content: Annotated[
        list[Any], BeforeValidator(_blocks), Field(min_length=1, max_length=MAX_PARTS)
    ]


class _Tool(Shape):
    type: Literal["custom"] = "custom"
    name: LongName
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None
    input_examples: Annotated[list[Any] | None, Field(max_length=0)] = None


class _Choice(Shape):
    type: Literal["auto", "any", "none", "tool"] = "auto"
    name: LongName | None = None
    disable_parallel_tool_use: bool | None = None


class _Think(Shape):
    """A budget cannot be kept: a model thinks as long as it does, within `max_tokens`."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[int, Field(ge=1)] | None = None
    display: Literal["summarized"] | None = None


class _Format(Shape):
    type: Literal["json_schema"]
    described: Annotated[dict[str, Any], Field(alias="schema")]


class _Output(Shape):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: _Format | None = None


class _Metadata(Shape):
    user_id: Annotated[str, StringConstraints(max_length=4096)] | None = None


class _ContextManagement(Shape):
    edits: list[Any] = Field(default=[])

    @property
    def changes(self) -> bool:
        """Would a turn be left out of the chat?"""
        return any(not isinstance(e, Mapping) or e.get("keep") != "all" for e in self.edits)


def _unchanged(value: _ContextManagement) -> _ContextManagement:
    if value.changes:
        raise fault(f"would leave out parts of the chat, which {_UNSUPPORTED}")
    return value


class MessagesBody(Shape):
    """The fields that a chat completion doesn't have, or has in another form."""

    messages: Annotated[list[Any], Field(min_length=1, max_length=MAX_MESSAGES)]
    system: Texts = Field(default=[])
    stop_sequences: Annotated[list[str], Field(max_length=MAX_STOPS)] = Field(default=[])
    tools: Annotated[list[Any], Field(max_length=MAX_TOOLS)] = Field(default=[])
    tool_choice: _Choice = _Choice()
    thinking: _Think | None = None
    output_config: _Output = _Output()
    metadata: _Metadata = _Metadata()
    context_management: Annotated[_ContextManagement | None, AfterValidator(_unchanged)] = None
    cache_control: dict[str, Any] | None = None
    """No effect, here and in every block: prompts are shared as far as they are the same."""


def read_messages(body: Mapping[str, Any], *, id: str, deadline: float | None) -> Request:
    """The body of Anthropic's /v1/messages."""
    if body.get("max_tokens") is None:
        raise InvalidRequest("`max_tokens` is missing.", param="max_tokens")
    request = read_token_count(body, id=id, deadline=deadline)
    messages = request.generation.messages or ()
    if messages[-1]["role"] == "assistant":
        raise InvalidRequest(
            "`messages` ends with the assistant's turn; to go on from its text "
            f"{_UNSUPPORTED}. End with the user's.",
            param="messages",
        )
    return request


def read_token_count(body: Mapping[str, Any], *, id: str, deadline: float | None) -> Request:
    """The body of /v1/messages/count_tokens: that of a message whose answer nobody wants."""
    refuse_foreign(body, MESSAGES_FOREIGN)
    own = read_shape(body, MessagesBody)
    rest = {name: each for name, each in body.items() if name not in _OWN}
    options = rest.get("chat_template_kwargs")
    if options is None or isinstance(options, dict):
        rest["chat_template_kwargs"] = _thinking(own.thinking) | (options or {})
    chat = rest | _chat(own)
    return read_translated(chat, MESSAGES_WORDS, id=id, deadline=deadline, long_names=True)


_OWN = frozenset(MessagesBody.model_fields)


def _thinking(think: _Think | None) -> dict[str, Any]:
    """What the template is told. Not asked, or told to decide itself, a model does as it is used to."""
    if think is None or think.type == "adaptive":
        return {}
    return {"enable_thinking": think.type == "enabled"}


def _chat(own: MessagesBody) -> dict[str, Any]:
    """The fields of a chat completion that mean the same. Null: not sent."""
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
        tool = checked(_Tool, each, f"tools[{at}]")
        function = tool.model_dump(exclude_none=True, include={"name", "description", "strict"})
        yield {"type": "function", "function": function | {"parameters": tool.input_schema}}


def _choice(choice: _Choice) -> Any:
    if choice.type != "tool":
        return {"any": "required"}.get(choice.type, choice.type)
    if choice.name is None:
        raise InvalidRequest("`tool_choice.name` is missing.", param="tool_choice.name")
    return {"type": "function", "function": {"name": choice.name}}


def _format(format: _Format | None) -> dict[str, Any] | None:
    if format is None:
        return None
    return {
        "type": "json_schema",
        "json_schema": {"name": "output", "schema": format.described},
    }


def _user(id: str | None) -> str | None:
    """Some clients tell a lot about their user; only that it is the same one matters."""
    if id is None or len(id) <= MAX_USER:
        return id
    return hashlib.sha256(id.encode()).hexdigest()


def _messages(own: MessagesBody) -> list[dict[str, Any]]:
    # As if it were the first message: many templates take no second one of the system.
    read = chain((("system", block) for block in own.system), _read_blocks(own.messages))
    turns: list[dict[str, Any]] = []
    for role, group in groupby(read, key=lambda each: each[0]):
        turns += _TURNS[role]([block for _, block in group])
    return turns


def _read_blocks(messages: Sequence[Any]) -> Iterator[tuple[str, Shape]]:
    """Each block of all messages, with its role."""
    for at, each in enumerate(messages):
        message = checked(_Message, each, f"messages[{at}]")
        for number, block in enumerate(message.content):
            path = f"messages[{at}].content[{number}]"
            yield message.role, _block(block, _BLOCKS[message.role], path)


def _block(block: Any, shapes: Mapping[str, type[Shape]], path: str) -> Shape:
    kind = block.get("type") if isinstance(block, Mapping) else None
    shape = shapes.get(kind) if isinstance(kind, str) else None
    if shape is None:
        raise InvalidRequest(
            f"`{path}.type` should be one of: {', '.join(shapes)}.", param=f"{path}.type"
        )
    return checked(shape, block, path)


def _systems(blocks: Sequence[Shape]) -> Iterable[dict[str, Any]]:
    return [{"role": "system", "content": _joined(blocks, "\n\n")}]


def _users(blocks: Sequence[Shape]) -> Iterable[dict[str, Any]]:
    for spoken, group in groupby(blocks, key=lambda block: isinstance(block, _Text)):
        some = list(group)
        yield from [{"role": "user", "content": _joined(some)}] if spoken else map(_result, some)


def _result(block: Shape) -> dict[str, Any]:
    assert isinstance(block, _ToolResult)
    text = "\n".join(part.text for part in block.content)
    # A chat has no other word for it.
    content = f"Error: {text}" if block.is_error else text
    return {"role": "tool", "tool_call_id": block.tool_use_id, "content": content}


def _assistants(blocks: Sequence[Shape]) -> Iterable[dict[str, Any]]:
    thoughts = [block.thinking for block in blocks if isinstance(block, _Thinking)]
    calls = [_call(block) for block in blocks if isinstance(block, _ToolUse)]
    text = _joined([block for block in blocks if isinstance(block, _Text)])
    turn: dict[str, Any] = {"role": "assistant", "content": text or None}
    if any(thoughts):
        turn["reasoning_content"] = "\n".join(thoughts)
    if calls:
        turn["tool_calls"] = calls
    return [turn]


_TURNS = {"system": _systems, "user": _users, "assistant": _assistants}


def _call(block: _ToolUse) -> dict[str, Any]:
    arguments = msgspec.json.encode(block.input).decode()
    function = {"name": block.name, "arguments": arguments}
    return {"id": block.id, "type": "function", "function": function}


def _joined(blocks: Sequence[Shape], between: str = "\n") -> str:
    return between.join(block.text for block in blocks if isinstance(block, _Text))
