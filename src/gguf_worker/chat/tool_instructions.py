"""Tools for models whose template has none: they are described in the messages themselves.

The description is Hermes's. Such a template renders system, user and assistant messages of plain
text, often only if user and assistant alternate.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from gguf_worker.chat.normalise import TemplateMessage
from gguf_worker.chat.tool_history import as_object


def instructions(tools: Sequence[Mapping[str, Any]]) -> str:
    """Return a text that tells a model how to call `tools`."""
    functions = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    return (
        "# Tools\n\n"
        "You may call one or more functions to help with the user's request. "
        "Their signatures are within <tools></tools>:\n"
        f"<tools>\n{functions}\n</tools>\n\n"
        "For each function call, write a JSON object with the function's name and its arguments "
        "within <tool_call></tool_call>:\n"
        '<tool_call>\n{"name": <function-name>, "arguments": <arguments-object>}\n</tool_call>'
    )


def plain_messages(
    messages: Sequence[TemplateMessage], tools: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return `messages` with `tools`, calls and results as texts of system, assistant and user."""
    plain: list[dict[str, Any]] = []
    results: list[str] = []  # since the last message that is no result of a tool
    for message in messages:
        if message.get("role") == "tool":
            results.append(f"<tool_response>\n{_text(message)}\n</tool_response>")
            continue
        if results:
            plain.append({"role": "user", "content": "\n".join(results)})
        if results and message.get("role") == "user" and isinstance(message.get("content"), str):
            plain[-1]["content"] += f"\n\n{message['content']}"
        else:
            plain.append(_with_calls(message))
        results = []
    if results:
        plain.append({"role": "user", "content": "\n".join(results)})
    return _with_instructions(plain, instructions(tools)) if tools else plain


def _with_instructions(messages: list[dict[str, Any]], text: str) -> list[dict[str, Any]]:
    """Return `messages` with `text` after the system message, or as one."""
    if messages and messages[0].get("role") in ("system", "developer"):
        first, *others = messages
        return [{**first, "content": f"{_text(first)}\n\n{text}"}, *others]
    return [{"role": "system", "content": text}, *messages]


def _with_calls(message: TemplateMessage) -> dict[str, Any]:
    plain = {key: value for key, value in message.items() if key != "tool_calls"}
    calls = message.get("tool_calls")
    if calls:
        texts = [_text(message), *map(_call, calls)]
        plain["content"] = "\n".join(text for text in texts if text)
    elif plain.get("content") is None:
        plain["content"] = ""
    return plain


def _call(call: Mapping[str, Any]) -> str:
    function = call.get("function")
    if not isinstance(function, Mapping):
        return f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>"
    name = json.dumps(function["name"], ensure_ascii=False)
    arguments = _as_written(function.get("arguments"))
    return f'<tool_call>\n{{"name": {name}, "arguments": {arguments}}}\n</tool_call>'


def _as_written(arguments: Any) -> str:
    """Return the JSON of an object: the text itself, if it is such."""
    if isinstance(arguments, str) and arguments.lstrip().startswith("{"):
        with suppress(ValueError, RecursionError):
            json.loads(arguments)
            return arguments
    return json.dumps(as_object(arguments), ensure_ascii=False)


def _text(message: TemplateMessage) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else ""
