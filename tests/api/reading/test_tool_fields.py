"""The tools that a caller offers, and the choice among them."""

from __future__ import annotations

from typing import Any

import pytest

from gguf_worker.api.openai import read_chat, read_completion
from gguf_worker.api.reading import MAX_TOOLS
from gguf_worker.errors import InvalidRequest
from gguf_worker.providers import GenerationRequest, ToolChoice


def tool(name: str = "weather", **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **more}}


def request(**body: Any) -> GenerationRequest:
    messages = [{"role": "user", "content": "Hi"}]
    return read_chat({"messages": messages, **body}, id="r", deadline=None).request


def fault(**body: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        request(**body)
    return caught.value


def test_tools_reach_the_request_as_they_were_written() -> None:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}}
    tools = [tool(description="of a city", parameters=parameters, strict=True), tool("f.2-b_c")]
    assert request(tools=tools).tools == tuple(tools)


def test_what_a_tool_leaves_out_is_not_made_up() -> None:
    assert request(tools=[tool(description=None, parameters=None)]).tools == (tool(),)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, ToolChoice("auto")),
        ("auto", ToolChoice("auto")),
        ("none", ToolChoice("none")),
        ("required", ToolChoice("required")),
        ({"type": "function", "function": {"name": "weather"}}, ToolChoice("required", "weather")),
    ],
)
def test_a_caller_says_whether_a_tool_is_called(choice: Any, expected: ToolChoice) -> None:
    assert request(tools=[tool()], tool_choice=choice).tool_choice == expected


def test_one_answer_may_call_several_tools_unless_that_is_forbidden() -> None:
    assert request(tools=[tool()]).parallel_calls
    assert not request(tools=[tool()], parallel_tool_calls=False).parallel_calls


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [tool("a b")]}, "tools[0].function.name"),
        ({"tools": [tool("a" * 65)]}, "tools[0].function.name"),
        ({"tools": [tool(), tool(parameters="x")]}, "tools[1].function.parameters"),
        ({"tools": [tool(parameters={"x": "y" * 70_000})]}, "tools[0].function.parameters"),
        ({"tools": [tool(str(n)) for n in range(MAX_TOOLS + 1)]}, "tools"),
        ({"tools": [tool(), tool()]}, "tools"),
        ({"tools": {}}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [], "tool_choice": "required"}, "tool_choice"),
        ({"tools": [tool()], "tool_choice": "any"}, "tool_choice"),
        ({"tools": [tool()], "tool_choice": {"type": "function", "function": {"name": "x"}}},
         "tool_choice"),
        ({"tools": [tool()], "parallel_tool_calls": "no"}, "parallel_tool_calls"),
    ],
    ids=lambda value: str(value)[:60],
)  # fmt: skip
def test_a_tool_that_cannot_be_called_is_refused_by_name(body: dict[str, Any], param: str) -> None:
    error = fault(**body)
    assert error.param is not None
    assert error.param.startswith(param)


def test_only_a_chat_calls_tools() -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_completion({"prompt": "Hi", "tools": [tool()]}, id="r", deadline=None)
    assert caught.value.param == "tools"


def test_the_old_functions_are_refused_with_a_hint_at_nothing_lost() -> None:
    assert fault(functions=[{"name": "f"}]).param == "functions"


UNIQUE = {"type": "object", "properties": {"tags": {"type": "array", "uniqueItems": True}}}
PLAIN = {"type": "object", "properties": {"city": {"type": "string", "format": "url"}}}


def warnings(**body: Any) -> tuple[str, ...]:
    messages = [{"role": "user", "content": "Hi"}]
    return read_chat({"messages": messages, **body}, id="r", deadline=None).warnings


def test_a_demanded_call_is_not_held_to_all_of_a_schema_and_a_warning_says_so() -> None:
    tools = [tool("a", parameters=PLAIN), tool("b", parameters=UNIQUE), tool("c")]
    said = ("a call of 'b' is not held to `uniqueItems` (at properties.tags)",)
    assert warnings(tools=tools, tool_choice="required") == said
    named = {"type": "function", "function": {"name": "b"}}
    assert warnings(tools=tools, tool_choice=named) == said
    assert request(tools=tools, tool_choice="required").tools == tuple(tools)


@pytest.mark.parametrize(
    "choice", [{}, {"tool_choice": "auto"}, {"tool_choice": "none"},
               {"tool_choice": {"type": "function", "function": {"name": "other"}}}]
)  # fmt: skip
def test_what_no_call_is_held_to_needs_no_warning(choice: dict[str, Any]) -> None:
    assert warnings(tools=[tool(parameters=UNIQUE), tool("other")], **choice) == ()


@pytest.mark.parametrize("choice", ["auto", "required"])
def test_a_strict_tool_is_followed_whole_or_refused_by_name(choice: str) -> None:
    tools = [tool("a"), tool("b", parameters=UNIQUE, strict=True)]
    error = fault(tools=tools, tool_choice=choice)
    assert error.param == "tools[1].function.parameters"
    assert "`uniqueItems` (at properties.tags)" in error.message
    assert warnings(tools=tools, tool_choice="none") == ()
    assert warnings(tools=[tool("b", parameters=PLAIN, strict=True)], tool_choice=choice) == ()


def test_warnings_of_many_tools_are_few() -> None:
    tools = [tool(f"t{number}", parameters=UNIQUE) for number in range(100)]
    said = warnings(tools=tools, tool_choice="required")
    assert len(said) == 17
    assert said[-1] == "84 more things that calls are not held to"
