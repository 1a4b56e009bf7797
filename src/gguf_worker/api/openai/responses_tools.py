"""The tools of /v1/responses: those that a chat can offer, under one name each.

Functions may lie in a namespace, where other namespaces have the same names. A chat has no
namespaces, so its functions have both names in one, and calls get them back apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import StringConstraints

from gguf_worker.api.reading import (
    MAX_NAME,
    MAX_TOOLS,
    Placeholders,
    StrictModel,
    checked_part,
)
from gguf_worker.errors import InvalidRequest

_OFFERED = ("function", "custom")
_NAMESPACE = "namespace"
_HOLDS_TOOLS = ("tool_search_output", "additional_tools")
"""Kinds of items that add tools in the middle of a conversation."""


CalledName = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class ResponsesTool(StrictModel):
    type: Literal["function"]
    name: CalledName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ResponsesToolChoice(StrictModel):
    type: Literal["function"]
    name: CalledName
    namespace: str | None = None


class FoundTool(NamedTuple):
    """A tool as it was sent, with its path in the body and its namespace, if it is in one."""

    path: str
    tool: Mapping[str, Any]
    namespace: str | None = None


def joined_name(namespace: Any, name: str) -> str:
    """Return the name under which a chat offers a function of a namespace."""
    if not isinstance(namespace, str) or not namespace:
        return name
    return namespace + name if namespace.endswith("_") else f"{namespace}__{name}"


def namespaces(body: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Return the namespace and the own name of each function in one, by the name in the chat."""
    found: dict[str, tuple[str, str]] = {}
    for _, tool, namespace in found_tools(body, Placeholders()):
        name = tool.get("name")
        if namespace is not None and isinstance(name, str):
            found[joined_name(namespace, name)] = (namespace, name)
    return found


def found_tools(body: Mapping[str, Any], placeholders: Placeholders) -> Iterator[FoundTool]:
    """Yield the functions and custom tools of a body, also those that its input adds.

    Tools that only OpenAI's own service runs are left out, which `placeholders` notes.
    """
    yield from _listed(body.get("tools"), "tools", placeholders)
    items = body.get("input")
    for at, item in enumerate(items if isinstance(items, list) else ()):
        if isinstance(item, Mapping) and item.get("type") in _HOLDS_TOOLS:
            yield from _listed(item.get("tools"), f"input[{at}].tools", placeholders)


def _listed(tools: Any, path: str, placeholders: Placeholders) -> Iterator[FoundTool]:
    if tools is None:
        return
    if not isinstance(tools, list):
        raise InvalidRequest(f"`{path}` should be a list.", param=path)
    if len(tools) > MAX_TOOLS:
        raise InvalidRequest(f"`{path}` should have at most {MAX_TOOLS} items.", param=path)
    for at, tool in enumerate(tools):
        where = f"{path}[{at}]"
        if not isinstance(tool, Mapping):
            raise InvalidRequest(f"`{where}` should be an object.", param=where)
        kind = tool.get("type")
        if kind in _OFFERED:
            yield FoundTool(where, tool)
        elif kind == _NAMESPACE:
            yield from _of_namespace(tool, where, placeholders)
        elif isinstance(kind, str) and kind:
            placeholders.left_out(kind)
        else:
            raise InvalidRequest(f"`{where}.type` is missing.", param=f"{where}.type")


def _of_namespace(
    tool: Mapping[str, Any], path: str, placeholders: Placeholders
) -> Iterator[FoundTool]:
    name = tool.get("name")
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
        raise InvalidRequest(
            f"`{path}.name` should be text of 1 to {MAX_NAME} characters.", param=f"{path}.name"
        )
    for found in _listed(tool.get("tools"), f"{path}.tools", placeholders):
        yield found if found.namespace else found._replace(namespace=name)


def chat_tools(
    body: Mapping[str, Any], placeholders: Placeholders
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the tools as a chat offers them, and the path of each in the body.

    A tool that is sent twice, such as by a search for tools, is offered once. Raises
    InvalidRequest for the first that is wrong.
    """
    tools: list[dict[str, Any]] = []
    paths: list[str] = []
    names: set[str] = set()
    for found in found_tools(body, placeholders):
        tool = _chat_tool(found)
        name = tool[tool["type"]].get("name")
        if isinstance(name, str):  # else it is refused with the chat's tools
            if found.path.startswith("input[") and name in names:
                continue
            names.add(name)
        tools.append(tool)
        paths.append(found.path)
        if len(tools) > MAX_TOOLS:
            raise InvalidRequest(f"`tools` should have at most {MAX_TOOLS} items.", param="tools")
    return tools, paths


def _chat_tool(found: FoundTool) -> dict[str, Any]:
    path, tool, namespace = found
    if tool["type"] != "function":
        custom = {name: each for name, each in tool.items() if name != "type" and each is not None}
        return {"type": "custom", "custom": custom | {"name": _name(tool, namespace)}}
    checked = checked_part(ResponsesTool, tool, path)
    function = checked.model_dump(exclude_none=True, exclude={"type"})
    return {"type": "function", "function": function | {"name": _name(function, namespace)}}


def _name(tool: Mapping[str, Any], namespace: Any) -> Any:
    name = tool.get("name")
    return joined_name(namespace, name) if isinstance(name, str) else name


def chat_choice(choice: Any) -> Any:
    """Return the choice as a chat has it. Raises InvalidRequest for a tool that is not run here."""
    if isinstance(choice, str):
        return choice
    kind = choice.get("type") if isinstance(choice, Mapping) else None
    if kind == "custom":
        return {"type": kind, kind: {"name": _name(choice, choice.get("namespace"))}}
    if kind == "allowed_tools":
        tools = [
            chat_choice(each) if each["type"] in _OFFERED else {"type": each["type"]}
            for each in _allowed(choice)
        ]
        return {"type": kind, kind: {"mode": choice.get("mode") or "auto", "tools": tools}}
    named = checked_part(ResponsesToolChoice, choice, "tool_choice")
    return {"type": "function", "function": {"name": joined_name(named.namespace, named.name)}}


def _allowed(choice: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return the tools of such a choice whose kind is told."""
    tools = choice.get("tools")
    if not isinstance(tools, list):
        raise InvalidRequest("`tool_choice.tools` should be a list.", param="tool_choice.tools")
    told = [each for each in tools if isinstance(each, Mapping)]
    return [each for each in told if isinstance(each.get("type"), str)]
