"""The tools of /v1/messages: those that a chat can offer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import StringConstraints

from gguf_worker.api.reading import MAX_TOOLS, Placeholders, StrictModel, checked_part
from gguf_worker.errors import InvalidRequest

_ADDITION, _REMOVAL = "tool_addition", "tool_removal"


class AnthropicTool(StrictModel):
    type: Literal["custom"] = "custom"
    name: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None


class OfferedTools(NamedTuple):
    """The tools as a chat has them, the path of each in the body, and what is to be said."""

    tools: list[dict[str, Any]]
    paths: list[str]


def chat_tools(body: Mapping[str, Any], placeholders: Placeholders) -> OfferedTools:
    """Return the body's tools, with the changes that its messages make to them.

    Tools that only Anthropic's own service runs are left out, which `placeholders` notes. Raises
    InvalidRequest for the first that is wrong.
    """
    held = _HeldTools(placeholders)
    for path, tool in _listed(body.get("tools")):
        held.add(path, tool)
    for path, change, tool in _changes(body.get("messages")):
        definition = tool.get("definition")
        if change == _REMOVAL or definition is not None:
            held.remove(definition if isinstance(definition, Mapping) else tool)
        if change == _ADDITION and definition is not None:
            held.add(f"{path}.tool.definition", definition)
    return held.offered()


class _HeldTools:
    """The tools that a conversation has so far, by name: it may change them thousands of times."""

    def __init__(self, placeholders: Placeholders) -> None:
        self._placeholders = placeholders
        self._count = 0
        self._by_name: dict[Any, list[tuple[str, dict[str, Any]]]] = {}

    def add(self, path: str, tool: Any) -> None:
        """Add a tool that can be called here. Raises InvalidRequest if it is wrong, or too many."""
        if (read := _chat_tool(tool, path, self._placeholders)) is None:
            return
        self._by_name.setdefault(read["function"]["name"], []).append((path, read))
        self._count += 1
        if self._count > MAX_TOOLS:
            raise InvalidRequest(f"`tools` should have at most {MAX_TOOLS} items.", param="tools")

    def remove(self, tool: Mapping[str, Any]) -> None:
        """Remove what has the name of this tool."""
        if isinstance(name := tool.get("name"), str):
            self._count -= len(self._by_name.pop(name, ()))

    def offered(self) -> OfferedTools:
        held = [each for same in self._by_name.values() for each in same]
        return OfferedTools([tool for _, tool in held], [path for path, _ in held])


def _listed(tools: Any) -> Iterator[tuple[str, Any]]:
    for at, tool in enumerate(tools or ()):
        yield f"tools[{at}]", tool


def _changes(messages: Any) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield the path, the kind and the tool of each block that adds or removes one."""
    for at, message in enumerate(messages if isinstance(messages, list) else ()):
        content = message.get("content") if isinstance(message, Mapping) else None
        for number, block in enumerate(content if isinstance(content, list) else ()):
            if not isinstance(block, Mapping) or block.get("type") not in (_ADDITION, _REMOVAL):
                continue
            if isinstance(tool := block.get("tool"), Mapping):
                yield f"messages[{at}].content[{number}]", block["type"], tool


def _chat_tool(tool: Any, path: str, placeholders: Placeholders) -> dict[str, Any] | None:
    kind = tool.get("type") if isinstance(tool, Mapping) else None
    if isinstance(kind, str) and kind not in ("", "custom"):
        placeholders.left_out(kind)
        return None
    read = checked_part(AnthropicTool, tool, path)
    function = read.model_dump(exclude_none=True, include={"name", "description", "strict"})
    return {"type": "function", "function": function | {"parameters": read.input_schema}}


def example_warnings(tools: Sequence[Any]) -> Iterator[str]:
    """Yield a sentence if tools come with examples, which templates have no place for."""
    if any(isinstance(each, Mapping) and each.get("input_examples") for each in tools):
        yield "input_examples of tools were ignored"
