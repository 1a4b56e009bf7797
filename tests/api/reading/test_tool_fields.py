"""The tools that a caller offers, and the choice among them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gguf_worker.api.openai import read_chat, read_completion
from gguf_worker.api.reading import MAX_TOOLS, GenerationCall
from gguf_worker.errors import InvalidRequest
from gguf_worker.providers import GenerationRequest, ToolChoice


def tool(name: Any = "weather", **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **more}}


def custom(name: str = "patch", **more: Any) -> dict[str, Any]:
    return {"type": "custom", "custom": {"name": name, **more}}


def call(**body: Any) -> GenerationCall:
    messages = [{"role": "user", "content": "Hi"}]
    return read_chat({"messages": messages, **body}, id="r", deadline=None)


def request(**body: Any) -> GenerationRequest:
    return call(**body).request


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
        ({"tools": [{"type": "custom"}]}, "tools[0].custom"),
        ({"tools": [{}]}, "tools[0].function"),
        ({"tools": [5]}, "tools[0]"),
        ({"tools": [tool("a\nb")]}, "tools[0].function.name"),
        ({"tools": [tool("")]}, "tools[0].function.name"),
        ({"tools": [tool(5)]}, "tools[0].function.name"),
        ({"tools": [tool("a" * 257)]}, "tools[0].function.name"),
        ({"tools": [tool(), tool(parameters="x")]}, "tools[1].function.parameters"),
        ({"tools": [tool(parameters={"x": "y" * 70_000})]}, "tools[0].function.parameters"),
        ({"tools": [tool(str(n)) for n in range(MAX_TOOLS + 1)]}, "tools"),
        ({"tools": [tool(str(n), description="y" * 60_000) for n in range(40)]}, "tools"),
        ({"tools": [tool(), tool(description="another")]}, "tools"),
        ({"tools": {}}, "tools"),
        ({"tools": [tool()], "functions": [{"name": "x"}]}, "functions"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [], "tool_choice": "required"}, "tool_choice"),
        ({"tools": [{"type": "web_search"}], "tool_choice": "required"}, "tool_choice"),
        ({"tools": [tool()], "tool_choice": "perhaps"}, "tool_choice"),
        ({"tools": [tool()], "tool_choice": {"type": "web_search"}}, "tool_choice"),
        ({"tools": [tool()], "tool_choice": {"type": "function", "function": {"name": "x"}}},
         "tool_choice"),
        ({"tools": [tool()], "tool_choice": {"type": "function"}}, "tool_choice"),
        ({"tools": [tool()], "tool_choice": {"type": "allowed_tools", "allowed_tools": {
            "tools": [{"type": "function", "function": {"name": "x"}}]}}}, "tool_choice"),
        ({"tools": [tool()], "tool_choice": {"type": "allowed_tools", "allowed_tools": {
            "mode": "required", "tools": []}}}, "tool_choice"),
        ({"tools": [tool()], "parallel_tool_calls": "no"}, "parallel_tool_calls"),
        ({"tools": [custom(format={"type": "grammar"})]}, "tools[0].custom.format.grammar"),
        ({"tools": [custom(format={"type": "grammar", "syntax": "ebnf", "definition": "x"})]},
         "tools[0].custom.format"),
        ({"functions": [{"name": "f"}], "function_call": {"name": "g"}}, "function_call"),
        ({"functions": [{"description": "f"}]}, "functions[0].name"),
        ({"functions": [{"name": "f"}], "function_call": "required"}, "function_call"),
    ],
    ids=lambda value: str(value)[:60],
)  # fmt: skip
def test_a_tool_that_cannot_be_called_is_refused_by_name(body: dict[str, Any], param: str) -> None:
    error = fault(**body)
    assert error.param is not None
    assert error.param.startswith(param)


@pytest.mark.parametrize(
    "name", ["mcp:server/tool", "List[Dict[str, int]]", "a b", "ünï", "x" * 128, "a.b-c_d"]
)
def test_a_tool_may_have_any_name(name: str) -> None:
    body = {"tools": [tool(name)], "tool_choice": {"type": "function", "function": {"name": name}}}
    read = request(**body)
    assert read.tools[0]["function"]["name"] == name
    assert read.tool_choice == ToolChoice("required", name)


@pytest.mark.parametrize("count", [129, MAX_TOOLS])
def test_there_may_be_many_tools(count: int) -> None:
    assert len(request(tools=[tool(f"t{n}") for n in range(count)]).tools) == count


@pytest.mark.parametrize("missing", [{}, {"type": None}])
@pytest.mark.parametrize("rest", [{"function": {"name": "weather"}}, {"name": "weather"}])
def test_a_tool_without_its_type_is_a_function(missing: Any, rest: Any) -> None:
    assert request(tools=[{**missing, **rest}]).tools == (tool(),)


def test_null_in_a_tool_is_absent() -> None:
    nothing = dict.fromkeys(("description", "parameters", "strict"))
    assert request(tools=[{**tool(**nothing), "custom": None}]).tools == (tool(),)
    assert request(tools=[custom(description=None, format=None)]).tools == (custom(),)
    assert request(tools=None, tool_choice=None, functions=None, function_call=None).tools == ()


def test_tools_that_nothing_here_runs_are_left_out_with_a_warning() -> None:
    hosted = [{"type": "web_search"}, {"type": "mcp", "server_url": "x"}, {"type": "web_search"}]
    read = call(tools=[*hosted, tool()])
    assert read.request.tools == (tool(),)
    assert read.warnings == (
        "tools of the type 'web_search' were left out: nothing here can run them",
        "tools of the type 'mcp' were left out: nothing here can run them",
    )


def test_a_tool_that_was_sent_twice_counts_once() -> None:
    read = call(tools=[tool(), tool("b"), tool()])
    assert read.request.tools == (tool(), tool("b"))
    assert read.warnings == ("a tool that was sent twice counts once",)


def test_tools_are_the_same_if_their_json_is() -> None:
    one = tool(parameters={"a": 1, "b": {"c": 2, "d": 3}})
    turned = tool(parameters={"b": {"d": 3, "c": 2}, "a": 1})
    assert request(tools=[one, turned]).tools == (one,)
    error = fault(tools=[tool(parameters={"a": 1}), tool(parameters={"a": True})])
    assert "two tools of one name" in error.message


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("any", ToolChoice("required")),
        ({"type": "auto"}, ToolChoice("auto")),
        ({"type": "any"}, ToolChoice("required")),
        ({"type": "none"}, ToolChoice("none")),
        ({"type": "function", "name": "weather"}, ToolChoice("required", "weather")),
        ({"type": "tool", "name": "weather"}, ToolChoice("required", "weather")),
        ({"type": "custom", "custom": {"name": "patch"}}, ToolChoice("required", "patch")),
        ({"type": None, "function": {"name": "weather"}}, ToolChoice("required", "weather")),
    ],
)
def test_a_choice_in_another_servers_form_is_read(choice: Any, expected: ToolChoice) -> None:
    assert request(tools=[tool(), custom()], tool_choice=choice).tool_choice == expected


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("mode", ["auto", "required", None])
def test_allowed_tools_are_those_that_may_be_called(mode: Any, nested: bool) -> None:
    named = [
        {"type": "function", "function": {"name": "b"}},
        {"type": "custom", "name": "patch"},
        {"type": "web_search"},
    ]
    allowed = {"mode": mode, "tools": named}
    choice = {"type": "allowed_tools", **({"allowed_tools": allowed} if nested else allowed)}
    read = request(tools=[tool("a"), tool("b"), custom()], tool_choice=choice)
    assert read.tool_choice == ToolChoice(mode or "auto", allowed=("b", "patch"))
    assert len(read.tools) == 3


def test_where_no_tool_is_allowed_none_is_called() -> None:
    choice: dict[str, Any] = {"type": "allowed_tools"}
    choice["allowed_tools"] = {"mode": "auto", "tools": []}
    assert request(tools=[tool()], tool_choice=choice).tool_choice == ToolChoice("none")
    assert call(tools=[tool()], tool_choice=choice).warnings == ()
    choice["allowed_tools"] = {"mode": "auto", "tools": [{"type": "web_search"}]}
    read = call(tools=[tool()], tool_choice=choice)
    assert read.request.tool_choice == ToolChoice("none")
    (said,) = read.warnings
    assert said == "no tool is called: `tool_choice` allows only such as nothing here can run"


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("syntax", ["lark", "regex"])
def test_a_custom_tool_has_the_format_of_its_text(syntax: str, flat: bool) -> None:
    grammar = {"syntax": syntax, "definition": "x"}
    sent = {"type": "grammar", **(grammar if flat else {"grammar": grammar})}
    expected = {"type": "grammar", "grammar": grammar}
    assert request(tools=[custom(format=sent)]).tools == (custom(format=expected),)
    read = call(tools=[custom(format=sent)]).warnings
    assert [each for each in read if "'patch'" in each] == list(read)
    assert bool(read) is (syntax == "lark")
    assert request(tools=[custom(format={"type": "text"})]).tools[0]["custom"]["format"] == {
        "type": "text"
    }


def test_only_a_chat_calls_tools() -> None:
    for field in ({"tools": [tool()]}, {"functions": [{"name": "f"}]}):
        with pytest.raises(InvalidRequest) as caught:
            read_completion({"prompt": "Hi", **field}, id="r", deadline=None)
        assert caught.value.param == "tools"


# OpenAI's old form


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, ToolChoice("auto")),
        ("auto", ToolChoice("auto")),
        ("none", ToolChoice("none")),
        ({"name": "weather"}, ToolChoice("required", "weather")),
    ],
)
def test_the_old_functions_are_tools_of_which_one_is_called(
    choice: Any, expected: ToolChoice
) -> None:
    parameters = {"type": "object"}
    function = {"name": "weather", "description": None, "parameters": parameters}
    read = request(functions=[function], function_call=choice)
    assert read.tools == (tool(parameters=parameters),)
    assert read.tool_choice == expected
    assert not read.parallel_calls


def test_old_calls_in_the_history_are_calls_of_tools() -> None:
    old = {"name": "weather", "arguments": "{}"}
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None, "function_call": old},
        {"role": "function", "name": "weather", "content": "Sunny"},
        {"role": "assistant", "content": "So.", "function_call": None},
    ]
    read = request(messages=messages).messages
    assert read is not None
    (made,) = read[1]["tool_calls"]
    assert made["function"] == old
    assert (read[2]["role"], read[2]["tool_call_id"]) == ("tool", made["id"])
    assert "tool_calls" not in read[3]


def test_calls_of_custom_tools_in_the_history_have_their_text() -> None:
    made = {"id": "c", "type": "custom", "custom": {"name": "patch", "input": 'a "b"\n'}}
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None, "tool_calls": [made]},
        {"role": "tool", "tool_call_id": "c", "content": "ok"},
    ]
    read = request(messages=messages).messages
    assert read is not None
    (call,) = read[1]["tool_calls"]
    assert call["id"] == "c"
    assert call["function"]["name"] == "patch"
    assert json.loads(call["function"]["arguments"]) == {"input": 'a "b"\n'}


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


def held_text(definition: str, syntax: str = "regex", name: str = "patch") -> dict[str, Any]:
    grammar = {"syntax": syntax, "definition": definition}
    return custom(name, format={"type": "grammar", "grammar": grammar})


@pytest.mark.parametrize("choice", ["auto", "required"])
@pytest.mark.parametrize(
    ("definition", "lost"),
    [
        (r"(?<!a)b+", "a look-behind in a `pattern`"),
        (r"a(?=b)", "a look-ahead in a `pattern`"),
        (r"(a)\1", "a back-reference in a `pattern`"),
        (r"\bcat\b", r"`\b` in a `pattern`"),
        ("(", "a `pattern` with an unclosed group"),
        ("*", "a `pattern` with a repetition of nothing"),
    ],
)
def test_what_a_custom_tools_text_is_not_held_to_is_said(
    definition: str, lost: str, choice: str
) -> None:
    said = warnings(tools=[held_text(definition)], tool_choice=choice)
    assert said == (f"a call of 'patch' is not held to {lost} (at properties.input)",)
    assert warnings(tools=[held_text(definition)], tool_choice="none") == ()


def test_an_expression_that_a_text_is_held_to_whole_needs_no_warning() -> None:
    for definition in ("a|b", "^a+$", r"(?P<x>\d{4})-\w*"):
        assert warnings(tools=[held_text(definition)], tool_choice="required") == ()


def test_beside_a_text_that_is_held_all_calls_are() -> None:
    said = ("a call of 'b' is not held to `uniqueItems` (at properties.tags)",)
    tools = [tool("b", parameters=UNIQUE)]
    assert warnings(tools=[*tools, held_text("a")]) == said
    assert warnings(tools=[*tools, custom()]) == ()
    assert "a call of" not in str(warnings(tools=[*tools, held_text("a", "lark")]))
    other = {"type": "function", "function": {"name": "b"}}
    assert warnings(tools=[*tools, held_text("(")], tool_choice=other) == said
