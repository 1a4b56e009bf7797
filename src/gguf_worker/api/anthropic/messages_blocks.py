"""The blocks of /v1/messages as the turns of a chat.

A tool's result is a block of the user's turn there, and a message of its own in a chat. Adjacent
turns of one role are joined, as Anthropic joins them. Blocks of tools that only Anthropic's own
service has are read as calls and their results, as far as they are text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from pydantic import BeforeValidator, Field, StringConstraints

from gguf_worker.api.reading import (
    MAX_ALL_PARTS,
    MAX_NAME,
    MAX_PARTS,
    CallIds,
    Placeholders,
    StrictModel,
    checked_part,
    readable_text,
    text_of_file,
    titled,
)
from gguf_worker.errors import InvalidRequest

BILLING = "x-anthropic-billing-header:"
"""The beginning of a line that Claude Code puts first, and that differs in every request."""

_NO_RESULT = "no result"

_SILENT = frozenset({"tool_addition", "tool_removal", "fallback"})
"""Kinds of blocks that say nothing to the model; the tools of the former are read elsewhere."""

Name = Annotated[str, StringConstraints(min_length=1, max_length=256)]


def _blocks(value: Any) -> Any:
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


class TextBlock(StrictModel):
    type: Literal["text"]
    text: str


class ToolUseBlock(StrictModel):
    id: str = ""
    name: Name
    input: dict[str, Any] | str = Field(default={})


class ThinkingBlock(StrictModel):
    thinking: str = ""


class RedactedThinking(StrictModel):
    data: str = ""


class ToolResultBlock(StrictModel):
    tool_use_id: str = ""
    content: Annotated[list[Any], BeforeValidator(_blocks), Field(max_length=MAX_PARTS)] = Field(
        default=[]
    )
    is_error: bool = False


TextBlocks = Annotated[list[TextBlock], BeforeValidator(_blocks), Field(max_length=MAX_PARTS)]


class AnthropicMessage(StrictModel):
    role: Literal["user", "assistant", "system"]
    content: Annotated[list[Any], BeforeValidator(_blocks), Field(max_length=MAX_PARTS)]


_OWN_BLOCKS: Mapping[str, Mapping[str, type[StrictModel]]] = {
    "system": {"text": TextBlock},
    "user": {"text": TextBlock, "tool_result": ToolResultBlock},
    "assistant": {
        "text": TextBlock,
        "tool_use": ToolUseBlock,
        "thinking": ThinkingBlock,
        "redacted_thinking": RedactedThinking,
        "server_tool_use": ToolUseBlock,
        "mcp_tool_use": ToolUseBlock,
    },
}
_OWN_KINDS = frozenset(kind for kinds in _OWN_BLOCKS.values() for kind in kinds)


def chat_turns(
    messages: Sequence[Any], system: Sequence[TextBlock], placeholders: Placeholders
) -> list[dict[str, Any]]:
    """Return the turns of a chat. Raises InvalidRequest for the first block that is wrong."""
    turns = _Turns(placeholders)
    # `system` counts as the first message: many templates refuse a second system message.
    for text in _without_billing(system):
        turns.text("system", text)
    asked = _last_asked(messages)
    for at, each in enumerate(messages):
        path = f"messages[{at}]"
        message = checked_part(AnthropicMessage, each, path)
        if not message.content:
            turns.text(message.role, "")
        for number, block in enumerate(message.content):
            turns.add(message.role, block, f"{path}.content[{number}]", at == asked)
    return list(turns.finished())


def _without_billing(system: Sequence[TextBlock]) -> Iterator[str]:
    """Yield the texts without the line that would differ from every earlier prompt.

    All that follows it could not be found in the cache otherwise.
    """
    for at, block in enumerate(system):
        text = block.text
        if at == 0 and text.startswith(BILLING):
            text = text.partition("\n")[2]
            if not text:
                continue
        yield text


def _last_asked(messages: Sequence[Any]) -> int:
    """Return the place of the user's last message; -1 if there is none.

    What was refused once in an earlier one must not end the conversation for good.
    """
    places = range(len(messages) - 1, -1, -1)
    return next((at for at in places if _is_users(messages[at])), -1)


def _is_users(message: Any) -> bool:
    return isinstance(message, Mapping) and message.get("role") == "user"


class _Turns:
    """The turns so far; their texts are lists until they are finished."""

    def __init__(self, placeholders: Placeholders) -> None:
        self._turns: list[dict[str, Any]] = []
        self._placeholders = placeholders
        self._ids = CallIds()
        self._parts = 0

    def finished(self) -> Iterator[dict[str, Any]]:
        """Yield the turns as a chat has them."""
        for turn in self._turns:
            between = "\n\n" if turn["role"] == "system" else "\n"
            content = between.join(turn["content"])
            thoughts = [each for each in turn.pop("thoughts", ()) if each]
            whole = {**turn, "content": content}
            if turn["role"] == "assistant":
                whole["content"] = content or None
            if thoughts:
                whole["reasoning_content"] = "\n".join(thoughts)
            yield whole

    def text(self, role: str, text: str) -> None:
        """Add a text to the last turn if it is of this role, else to a new one."""
        self._of(role)["content"].append(text)

    def add(self, role: str, block: Any, path: str, asked: bool) -> None:
        """Add a block. `asked`: it is of the user's last message."""
        kind = _kind(block, path)
        own = _OWN_BLOCKS[role].get(kind)
        if own is None and kind in _OWN_KINDS:
            raise InvalidRequest(
                f"`{path}.type` is {kind}, which has no place in a turn of the {role}; there may "
                f"be: {', '.join(_OWN_BLOCKS[role])}.",
                param=f"{path}.type",
            )
        if own is None:
            self._add_foreign(role, kind, block, path, asked)
            return
        match checked_part(own, block, path):
            case TextBlock() as read:
                self.text(role, read.text)
            case ThinkingBlock() as read:
                self._of(role).setdefault("thoughts", []).append(read.thinking)
            case RedactedThinking():
                self._placeholders.left_out(kind)
            case ToolUseBlock() as read:
                self._call(read)
            case ToolResultBlock() as read:
                text = self._joined(read.content, f"{path}.content", asked=False)
                # A chat's message has no field for a tool's failure.
                self._result(read.tool_use_id, f"Error: {text}" if read.is_error else text)

    def _add_foreign(
        self, role: str, kind: str, block: Mapping[str, Any], path: str, asked: bool
    ) -> None:
        if kind in _SILENT:
            return
        if kind.endswith("_tool_result"):
            checked = checked_part(_HostedResult, block, path)
            content = checked.content
            if kind == "mcp_tool_result" and isinstance(content, list):
                text = self._joined(content, f"{path}.content", asked=False)
            else:
                text = readable_text(content)
            self._result(checked.tool_use_id, text or self._placeholders.text(kind, _NO_RESULT))
        elif role == "system":
            self._placeholders.left_out(kind)
        else:
            self.text(role, self._part(block, path, asked))

    def _joined(self, parts: Sequence[Any], path: str, *, asked: bool) -> str:
        return "\n".join(self._part(part, f"{path}[{at}]", asked) for at, part in enumerate(parts))

    def _part(self, part: Any, path: str, asked: bool) -> str:
        """Return the text of a part, or what stands for it. Raises InvalidRequest if `asked`."""
        self._parts += 1
        if self._parts > MAX_ALL_PARTS:
            raise InvalidRequest(
                f"`messages` has more than {MAX_ALL_PARTS} content parts in all.", param="messages"
            )
        kind = _kind(part, path)
        if kind == "text":
            return checked_part(TextBlock, part, path).text
        if kind == "document" and (text := self._document(part, path)) is not None:
            return titled(text, part.get("title"), part.get("context"))
        if kind == "search_result":
            content = part.get("content")
            found = content if isinstance(content, list) else _blocks(content) or []
            text = self._joined(_as_list(found, f"{path}.content"), f"{path}.content", asked=False)
            return titled(text, part.get("title"), part.get("source"))
        if kind == "tool_reference":
            return f"[{kind}: {readable_text(part.get('tool_name'))}]"
        if kind == "compaction" and isinstance(part.get("content"), str):
            return str(part["content"])
        if asked:
            raise InvalidRequest(
                f"`{path}.type` is {kind[:MAX_NAME]}, and this model reads text only. Leave it "
                "out, or say in words what is in it.",
                param=f"{path}.type",
            )
        return self._placeholders.text(kind, part.get("title") or _shown(part))

    def _document(self, block: Mapping[str, Any], path: str) -> str | None:
        """Return a document's text; None if it is not one of text."""
        source = block.get("source")
        if not isinstance(source, Mapping):
            return None
        if source.get("type") == "text" and isinstance(source.get("data"), str):
            return str(source["data"])
        if source.get("type") == "content":
            content = _blocks(source.get("content"))
            where = f"{path}.source.content"
            return self._joined(_as_list(content, where), where, asked=False)
        return text_of_file(source.get("data"), source.get("media_type"))

    def _call(self, block: ToolUseBlock) -> None:
        given = block.input
        arguments = given if isinstance(given, str) else msgspec.json.encode(given).decode()
        self._made(self._ids.call(block.id), block.name, arguments)

    def _made(self, id: str, name: str, arguments: str) -> None:
        function = {"name": name, "arguments": arguments}
        call = {"id": id, "type": "function", "function": function}
        self._of("assistant").setdefault("tool_calls", []).append(call)

    def _result(self, call_id: str, text: str) -> None:
        """Add a call's result. One whose call is not there gets one: templates look for it."""
        id = self._ids.result(call_id)
        if id is None:
            id = self._ids.call(call_id)
            self._made(id, "unknown", "{}")
            self._ids.result(id)
        self._turns.append({"role": "tool", "tool_call_id": id, "content": [text]})

    def _of(self, role: str) -> dict[str, Any]:
        """Return the last turn if it is of this role, else a new one."""
        if not self._turns or self._turns[-1]["role"] != role:
            self._turns.append({"role": role, "content": []})
        return self._turns[-1]


class _HostedResult(StrictModel):
    tool_use_id: str = ""
    content: Any = None


def _kind(block: Any, path: str) -> str:
    kind = block.get("type") if isinstance(block, Mapping) else None
    if not isinstance(kind, str) or not kind:
        raise InvalidRequest(
            f"`{path}.type` should say of which kind the block is, such as text.",
            param=f"{path}.type",
        )
    return kind


def _as_list(value: Any, path: str) -> Sequence[Any]:
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > MAX_PARTS:
        raise InvalidRequest(
            f"`{path}` should be text, or a list of at most {MAX_PARTS} blocks.", param=path
        )
    return value


def _shown(block: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return what of a block may be shown: nothing of a picture's or a file's bytes."""
    return None if "source" in block else block
