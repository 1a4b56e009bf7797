"""The items of /v1/responses as the turns of a chat.

Those of one turn of the assistant (a thought, text, calls) are joined again. Items of tools that
only OpenAI's own service has are read as calls and their results, as far as they are text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from pydantic import BeforeValidator, Field, StringConstraints

from gguf_worker.api.openai.responses_tools import joined_name
from gguf_worker.api.reading import (
    MAX_ALL_PARTS,
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

_TEXTS = {
    **dict.fromkeys(
        ("input_text", "output_text", "text", "summary_text", "reasoning_text"), "text"
    ),
    "refusal": "refusal",
}
"""The field that holds the text, for each kind of part that has one."""

_HOSTED = frozenset({"web_search", "file_search", "image_generation", "code_interpreter", "mcp"})
"""Tools that the server runs: their calls have what came of them, or nothing."""

_RESULTS = ("output", "outputs", "results", "result", "error")
"""Fields of a hosted tool's call that say what came of it."""

_ASKED = ("action", "operation")
"""Fields that hold all that a call of a foreign kind asks for."""

_SILENT = frozenset({"additional_tools", "mcp_list_tools", "configuration_update"})
"""Kinds of items that add nothing to the conversation."""

_NO_RESULT = "no result"
_COMPACTED = "an earlier part of the conversation, which cannot be read here"


def _parts(value: Any) -> Any:
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


def _thoughts(value: Any) -> Any:
    return [{"text": value}] if isinstance(value, str) else value


Parts = Annotated[list[Any], BeforeValidator(_parts), Field(max_length=MAX_PARTS)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class ResponsesMessage(StrictModel):
    role: Literal["user", "assistant", "system", "developer"]
    content: Parts


class ResponsesCall(StrictModel):
    name: Name
    call_id: str = ""
    id: str = ""
    namespace: str | None = None
    arguments: str | dict[str, Any] = ""


class CustomCall(StrictModel):
    name: Name
    call_id: str = ""
    id: str = ""
    namespace: str | None = None
    input: str = ""


class CallOutput(StrictModel):
    call_id: str = ""
    id: str = ""
    name: str | None = None
    namespace: str | None = None
    output: Any = None


class ReasoningText(StrictModel):
    text: str


Thoughts = Annotated[
    list[ReasoningText], BeforeValidator(_thoughts), Field(max_length=MAX_PARTS, default=[])
]


class ReasoningItem(StrictModel):
    summary: Thoughts
    content: Thoughts
    encrypted_content: str | None = None


_OWN_ITEMS: Mapping[str, type[StrictModel]] = {
    "message": ResponsesMessage,
    "function_call": ResponsesCall,
    "custom_tool_call": CustomCall,
    "function_call_output": CallOutput,
    "custom_tool_call_output": CallOutput,
    "reasoning": ReasoningItem,
}


class ForeignItem(NamedTuple):
    """An item of a kind of which only OpenAI's own service can make something."""

    kind: str
    fields: Mapping[str, Any]


class ReadItem(NamedTuple):
    """An item with its path in the body. `asked`: it is the user's last message."""

    path: str
    item: StrictModel | ForeignItem
    asked: bool = False


def chat_turns(
    items: Sequence[Any], instructions: str | None, placeholders: Placeholders
) -> list[dict[str, Any]]:
    """Return the turns of a chat. Raises InvalidRequest for the first item that is wrong."""
    read = list(_read_items(items))
    conversation = _Conversation(placeholders)
    # Several system messages at the beginning become one: many templates take no second.
    opening = list(_opening(read))
    system = [conversation.said(each) for each in opening]
    if instructions is not None:
        system.insert(0, instructions)
    if system:
        conversation.turns.append({"role": "system", "content": "\n\n".join(system)})
    for each in read[len(opening) :]:
        conversation.add(each)
    if all(turn["role"] == "system" for turn in conversation.turns):
        conversation.turns.append({"role": "user", "content": ""})
    return conversation.turns


def _opening(items: Iterable[ReadItem]) -> Iterator[ReadItem]:
    for each in items:
        if not isinstance(each.item, ResponsesMessage) or each.item.role not in _SYSTEM:
            return
        yield each


_SYSTEM = ("system", "developer")


def _read_items(items: Sequence[Any]) -> Iterator[ReadItem]:
    asked = _last_asked(items)
    for at, item in enumerate(items):
        path = f"input[{at}]"
        given = item if isinstance(item, Mapping) else {}
        kind = _kind(given)
        if kind is None:
            raise InvalidRequest(
                f"`{path}.type` should say of which kind the item is, such as message.",
                param=f"{path}.type",
            )
        model = _OWN_ITEMS.get(kind)
        read = ForeignItem(kind, given) if model is None else checked_part(model, given, path)
        yield ReadItem(path, read, at == asked)


def _kind(item: Mapping[str, Any]) -> str | None:
    kind = item.get("type")
    if kind is None:
        kind = "message" if "role" in item else "item_reference" if "id" in item else None
    return kind if isinstance(kind, str) and kind else None


def _last_asked(items: Sequence[Any]) -> int:
    """Return the place of the user's last message; -1 if there is none.

    What was refused once in an earlier one must not end the conversation for good.
    """
    places = range(len(items) - 1, -1, -1)
    return next((at for at in places if _is_users(items[at])), -1)


def _is_users(item: Any) -> bool:
    return isinstance(item, Mapping) and item.get("role") == "user"


class _Conversation:
    """The turns so far."""

    def __init__(self, placeholders: Placeholders) -> None:
        self.turns: list[dict[str, Any]] = []
        self._placeholders = placeholders
        self._ids = CallIds()
        self._parts = 0

    def add(self, read: ReadItem) -> None:
        """Add an item to the turn that it belongs to: the last one, or a new one."""
        match read.item:
            case ResponsesMessage(role="assistant"):
                self._say(self.said(read))
            case ResponsesMessage() as item:
                self.turns.append({"role": item.role, "content": self.said(read)})
            case ResponsesCall() as item:
                name = joined_name(item.namespace, item.name)
                self._call(item.call_id, item.id, name, item.arguments)
            case CustomCall() as item:
                name = joined_name(item.namespace, item.name)
                self._call(item.call_id, item.id, name, {"input": item.input})
            case CallOutput() as item:
                name = joined_name(item.namespace, item.name or "unknown")
                self._result(item.call_id, item.id, name, self._output(read.path, item.output))
            case ReasoningItem() as item:
                self._think(item)
            case ForeignItem() as item:
                self._add_foreign(item, read.path)

    def said(self, read: ReadItem) -> str:
        """Return the text of a message."""
        assert isinstance(read.item, ResponsesMessage)
        return self._joined(read.item.content, f"{read.path}.content", read.asked)

    def _joined(self, parts: Sequence[Any], path: str, asked: bool) -> str:
        texts = (self._part(each, f"{path}[{at}]", asked) for at, each in enumerate(parts))
        return "\n".join(texts)

    def _part(self, part: Any, path: str, asked: bool) -> str:
        self._parts += 1
        if self._parts > MAX_ALL_PARTS:
            raise InvalidRequest(
                f"`input` has more than {MAX_ALL_PARTS} content parts in all.", param="input"
            )
        kind = part.get("type") if isinstance(part, Mapping) else None
        if not isinstance(kind, str) or not kind:
            raise InvalidRequest(
                f"`{path}.type` should say of which kind the part is, such as input_text.",
                param=f"{path}.type",
            )
        if (name := _TEXTS.get(kind)) is not None:
            if not isinstance(part.get(name), str):
                raise InvalidRequest(f"`{path}` has no text.", param=path)
            return str(part[name])
        text = text_of_file(part.get("file_data"), "text/plain")
        if text is not None:
            return titled(text, part.get("filename"))
        if asked:
            raise InvalidRequest(
                f"`{path}.type` is {kind[:64]}, and this model reads text only. Leave it out, or "
                "say in words what is in it.",
                param=f"{path}.type",
            )
        return self._placeholders.text(kind, part.get("filename"))

    def _output(self, path: str, output: Any) -> str:
        if isinstance(output, list) and all(_has_kind(each) for each in output):
            return self._joined(output, f"{path}.output", asked=False)
        if _has_kind(output):
            return self._part(output, f"{path}.output", asked=False)
        if output is None or isinstance(output, str):
            return output or ""
        return msgspec.json.encode(output).decode()

    def _say(self, text: str) -> None:
        self._assistants("content", "tool_calls")["content"] = text

    def _call(self, call_id: str, item_id: str, name: str, arguments: Any) -> str:
        """Add a call; return its id, which is made up if it has none."""
        id = self._ids.call(call_id, item_id)
        function = {"name": name, "arguments": arguments}
        call = {"id": id, "type": "function", "function": function}
        self._assistants().setdefault("tool_calls", []).append(call)
        return id

    def _result(self, call_id: str, item_id: str, name: str, text: str) -> None:
        """Add a call's result. One whose call is not there gets one: templates look for it."""
        id = self._ids.result(call_id, item_id)
        if id is None:
            id = self._call(call_id, item_id, name, "{}")
            self._ids.result(id)
        self.turns.append({"role": "tool", "tool_call_id": id, "content": text})

    def _think(self, item: ReasoningItem) -> None:
        thought = "\n".join(each.text for each in item.content or item.summary)
        if thought:
            turn = self._assistants("reasoning_content", "content", "tool_calls")
            turn["reasoning_content"] = thought
        elif item.encrypted_content:
            self._placeholders.left_out("reasoning.encrypted_content")

    def _add_foreign(self, item: ForeignItem, path: str) -> None:
        kind, fields = item
        call_id, item_id = _id(fields, "call_id", path), _id(fields, "id", path)
        if kind in _SILENT or (kind == "item_reference" and self._is_known(item_id)):
            self._placeholders.left_out(kind)
        elif kind.endswith("_output"):
            tool = kind.removesuffix("_output").removesuffix("_call")
            self._result(call_id, item_id, tool, self._foreign_output(fields, path))
        elif kind.endswith("_call") or kind == "program":
            self._add_foreign_call(item, call_id, item_id)
        elif kind.startswith("compaction"):
            text = self._placeholders.text(kind, readable_text(fields) or _COMPACTED)
            self.turns.append({"role": "user", "content": text})
        elif kind == "mcp_approval_response":
            self.turns.append({"role": "user", "content": self._placeholders.text(kind, fields)})
        else:
            shown = item_id if kind == "item_reference" else fields
            self._say(self._placeholders.text(kind, shown))

    def _is_known(self, item_id: str) -> bool:
        """Tell whether an item that is referred to is there, or is a thought that nobody needs."""
        return item_id in self._ids or item_id.startswith("rs_")

    def _foreign_output(self, fields: Mapping[str, Any], path: str) -> str:
        if isinstance(tools := fields.get("tools"), list):
            return ", ".join(
                str(each["name"]) for each in tools if isinstance(each, Mapping) and "name" in each
            )
        output = next((fields[name] for name in _RESULTS if fields.get(name)), None)
        if isinstance(output, list):
            return readable_text(output)
        return self._output(path, output or fields.get("status"))

    def _add_foreign_call(self, item: ForeignItem, call_id: str, item_id: str) -> None:
        fields, tool = item.fields, item.kind.removesuffix("_call")
        name = fields.get("name")
        id = self._call(
            call_id,
            item_id,
            name if isinstance(name, str) and name else tool,
            _arguments(fields),
        )
        if tool not in _HOSTED:
            return
        result = readable_text(next((fields[each] for each in _RESULTS if fields.get(each)), None))
        shown = result or self._placeholders.text(item.kind, _NO_RESULT)
        self._result(id, item_id, tool, shown)

    def _assistants(self, *full: str) -> dict[str, Any]:
        """Return the last turn if it is the assistant's without a field of `full`, else a new."""
        last = self.turns[-1] if self.turns else {}
        if last.get("role") != "assistant" or any(name in last for name in full):
            last = {"role": "assistant"}
            self.turns.append(last)
        return last


def _has_kind(part: Any) -> bool:
    return isinstance(part, Mapping) and isinstance(part.get("type"), str)


def _arguments(fields: Mapping[str, Any]) -> str:
    """Return what a call of a foreign kind asks for, as a function's arguments."""
    given = fields.get("arguments")
    if isinstance(given, str) and given:
        return given
    asked = next((fields[name] for name in _ASKED if isinstance(fields.get(name), Mapping)), given)
    if isinstance(asked, Mapping):
        return msgspec.json.encode(asked).decode()
    rest = {name: each for name, each in fields.items() if name not in (*_RESULTS, "name")}
    return readable_text(rest) or "{}"


def _id(fields: Mapping[str, Any], name: str, path: str) -> str:
    value = fields.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidRequest(f"`{path}.{name}` should be text.", param=f"{path}.{name}")
    return value
