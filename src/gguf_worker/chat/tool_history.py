"""Tools and their calls in a chat, as the model's own template wants them.

OpenAI writes arguments as JSON in a text and leaves the content of a call null. Templates disagree: most
print the arguments themselves and want an object, some add them to other text; some can't add null to
text, some know a call by its null. So a template is asked once, with a small chat. Knows no wire format.
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

Message = Mapping[str, Any]
Ask = Callable[[Mapping[str, Any]], str]
"""The template's text for some variables; "" where it refuses them."""

_SHORT_IDS = re.compile(r"length\s*!=\s*9")
"""In the templates of Mistral's models, which refuse a call whose id has not nine characters."""

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
class _Form:
    """How arguments and missing content are given to a template."""

    as_object: bool = True
    empty: str | None = ""


class ToolHistory:
    """Rewrites chats for one template, of which `source` is the text."""

    def __init__(self, ask: Ask, source: str) -> None:
        self._ask = ask
        self._short_ids = _SHORT_IDS.search(source) is not None
        self._thinking = "message.thinking" in source

    @property
    def written(self) -> bool:
        """Does the template write calls down, in any form?"""
        return self._form is not None

    def of(self, messages: Sequence[Message]) -> list[Message]:
        """`messages` for the template."""
        return [self._rewritten(self._with_thought(message)) for message in messages]

    def _with_thought(self, message: Message) -> Message:
        """gpt-oss's template has its own word for a thought, and takes none beside a call's content."""
        thought = message.get("reasoning_content")
        if not self._thinking or not thought or "thinking" in message:
            return message
        if message.get("tool_calls") and message.get("content"):
            return message
        return {**message, "thinking": thought}

    def _rewritten(self, message: Message) -> Message:
        if message.get("tool_calls"):
            return self._called(message, self._form or _Form())
        if message.get("role") == "tool" and "tool_call_id" in message:
            id = self._id(message["tool_call_id"])
            return {**message, "content": _text(message), "tool_call_id": id}
        if message.get("role") == "assistant" and message.get("content") is None:
            return {**message, "content": ""}
        return message

    def _called(self, message: Message, form: _Form) -> Message:
        calls = [self._call(call, form) for call in message["tool_calls"]]
        content = message.get("content") or form.empty
        return {**message, "content": content, "tool_calls": calls}

    def _call(self, call: Mapping[str, Any], form: _Form) -> Mapping[str, Any]:
        function = call.get("function")
        if not isinstance(function, Mapping):
            return call
        arguments = _object(function.get("arguments"))
        if not form.as_object and not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        told = {"type": "function", **call, "function": {**function, "arguments": arguments}}
        return {**told, "id": self._id(call["id"])} if "id" in call else told

    def _id(self, id: Any) -> Any:
        """One that the template takes: the same for the same id."""
        if not self._short_ids or not isinstance(id, str) or re.fullmatch(r"[a-zA-Z0-9]{9}", id):
            return id
        return hashlib.sha256(id.encode(errors="replace")).hexdigest()[:9]

    @cached_property
    def _form(self) -> _Form | None:
        """The first form in which the template writes a call with its arguments, as JSON or in pieces."""
        for as_object, empty in product((True, False), ("", None)):
            form = _Form(as_object, empty)
            if self._works(form):
                return form
        return None

    def _works(self, form: _Form) -> bool:
        user, assistant, result = _PROBE
        messages = [user, self._called(assistant, form), result]
        text = self._ask({"messages": messages, "tools": [_PROBE_TOOL]})
        return all(word in text for word in (_NAME, _KEY, _VALUE)) and f"'{_KEY}'" not in text


def described(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """`tool` with the fields that templates read without asking whether they are there."""
    function = tool.get("function")
    if not isinstance(function, Mapping):
        return tool
    missing = {"description": "", "parameters": {"type": "object", "properties": {}}}
    return {
        **tool,
        "function": {**function, **{k: v for k, v in missing.items() if k not in function}},
    }


def _object(arguments: Any) -> Any:
    """Arguments as an object; as they are where they say none."""
    if arguments in (None, ""):
        return {}
    if not isinstance(arguments, str):
        return arguments
    try:
        said = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    return said if isinstance(said, dict) else arguments


def _text(message: Message) -> Any:
    content = message.get("content")
    return "" if content is None else content
