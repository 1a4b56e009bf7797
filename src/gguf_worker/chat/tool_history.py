"""Rewrites the tools and calls of a chat into the form that the model's own template takes.

OpenAI writes arguments as JSON in a text and leaves the content of a call null. Templates disagree:
most print the arguments themselves and want an object, some add them to other text; some cannot add
null to text, some recognise a call by null content. So each template is tried once, with a small
chat.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

TemplateMessage = Mapping[str, Any]
TryTemplate = Callable[[Mapping[str, Any]], str]
"""Returns the template's text for some variables; "" if it refuses them."""

_SHORT_IDS = re.compile(r"length\s*!=\s*9")
"""A condition in Mistral's templates, which refuse a call whose id has not nine characters."""

_NAME, _KEY, _VALUE = "probe_tool", "probe_key", "probe_value"
_PROBE = (
    {"role": "user", "content": "A"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "probe0001",
                "type": "function",
                "function": {"name": _NAME, "arguments": json.dumps({_KEY: _VALUE})},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "probe0001", "name": _NAME, "content": "B"},
)
_PROBE_TOOL = {
    "type": "function",
    "function": {
        "name": "another",
        "description": "",
        "parameters": {"type": "object", "properties": {}},
    },
}


@dataclass(frozen=True, slots=True)
class _CallStyle:
    """The form in which a template takes arguments and missing content."""

    as_object: bool = True
    empty: str | None = ""


class ToolHistory:
    """Rewrites chats for one template, whose text is `source`; `try_template` renders it."""

    def __init__(self, try_template: TryTemplate, source: str) -> None:
        self._try = try_template
        self._short_ids = _SHORT_IDS.search(source) is not None
        self._thinking = "message.thinking" in source

    @property
    def writes_calls(self) -> bool:
        """True if the template writes calls, in any style."""
        return self._style is not None

    def rewrite(self, messages: Sequence[TemplateMessage]) -> list[TemplateMessage]:
        """Return `messages` in the form that the template takes."""
        return [self._rewritten(self._with_thought(message)) for message in messages]

    def _with_thought(self, message: TemplateMessage) -> TemplateMessage:
        """Return the message with its thought also in the field that gpt-oss's template reads.

        That template takes no thought in a message that has both calls and content.
        """
        thought = message.get("reasoning_content")
        if not self._thinking or not thought or "thinking" in message:
            return message
        if message.get("tool_calls") and message.get("content"):
            return message
        return {**message, "thinking": thought}

    def _rewritten(self, message: TemplateMessage) -> TemplateMessage:
        if message.get("tool_calls"):
            return self._called(message, self._style or _CallStyle())
        if message.get("role") == "tool" and "tool_call_id" in message:
            id = self._id(message["tool_call_id"])
            return {**message, "content": _text(message), "tool_call_id": id}
        if message.get("role") == "assistant" and message.get("content") is None:
            return {**message, "content": ""}
        return message

    def _called(self, message: TemplateMessage, style: _CallStyle) -> TemplateMessage:
        calls = [self._call(call, style) for call in message["tool_calls"]]
        content = message.get("content") or style.empty
        return {**message, "content": content, "tool_calls": calls}

    def _call(self, call: Mapping[str, Any], style: _CallStyle) -> Mapping[str, Any]:
        function = call.get("function")
        if not isinstance(function, Mapping):
            return call
        arguments = _object(function.get("arguments"))
        if not style.as_object and not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        rewritten = {"type": "function", **call, "function": {**function, "arguments": arguments}}
        return {**rewritten, "id": self._id(call["id"])} if "id" in call else rewritten

    def _id(self, id: Any) -> Any:
        """Return an id that the template takes, the same for the same `id`."""
        if not self._short_ids or not isinstance(id, str) or re.fullmatch(r"[a-zA-Z0-9]{9}", id):
            return id
        return hashlib.sha256(id.encode(errors="replace")).hexdigest()[:9]

    @cached_property
    def _style(self) -> _CallStyle | None:
        """The first style in which the template writes a call and its arguments; None: none."""
        for as_object, empty in product((True, False), ("", None)):
            style = _CallStyle(as_object, empty)
            if self._works(style):
                return style
        return None

    def _works(self, style: _CallStyle) -> bool:
        user, assistant, result = _PROBE
        messages = [user, self._called(assistant, style), result]
        text = self._try({"messages": messages, "tools": [_PROBE_TOOL]})
        return all(word in text for word in (_NAME, _KEY, _VALUE)) and f"'{_KEY}'" not in text


def described(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return `tool` with defaults for the fields that templates read without a check."""
    function = tool.get("function")
    if not isinstance(function, Mapping):
        return tool
    missing = {"description": "", "parameters": {"type": "object", "properties": {}}}
    return {
        **tool,
        "function": {**function, **{k: v for k, v in missing.items() if k not in function}},
    }


def _object(arguments: Any) -> Any:
    """Return arguments as an object; unchanged if they are not the JSON of one."""
    if arguments in (None, ""):
        return {}
    if not isinstance(arguments, str):
        return arguments
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    return value if isinstance(value, dict) else arguments


def _text(message: TemplateMessage) -> Any:
    content = message.get("content")
    return "" if content is None else content
