"""Tools of /v1/responses: functions are offered, namespaces joined, foreign kinds left out."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from openai.types.responses import ToolParam

from gguf_worker.api.openai import read_responses
from gguf_worker.api.reading import MAX_TOOLS, GenerationCall
from gguf_worker.errors import InvalidRequest
from gguf_worker.providers import ToolChoice
from tests.api.kinds import gone_wrong, kinds, outcome

FUNCTION = {"type": "function", "name": "read", "parameters": {"type": "object"}, "strict": False,
    "description": "a file", "defer_loading": True}  # fmt: skip
NAMESPACE = {"type": "namespace", "name": "files", "description": "of files", "tools": [FUNCTION]}
FOREIGN = [*sorted(kinds(ToolParam) - {"function", "custom", "namespace"}), "moon"]

NONE_ALLOWED = "no tool is called: `tool_choice` allows only such as nothing here can run"


def read(*tools: Any, **body: Any) -> GenerationCall:
    return read_responses({"input": "Hi", "tools": list(tools), **body}, id="r", deadline=None)


def names(call: GenerationCall) -> list[str]:
    return [tool["function"]["name"] for tool in call.request.tools]


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_tool_that_is_not_run_here_is_left_out_with_a_warning(kind: str) -> None:
    call = read({"type": kind, "name": "x"}, FUNCTION)
    assert names(call) == ["read"]
    assert call.warnings == (f"one part of the kind {kind!r} was left out",)


def test_functions_of_a_namespace_have_both_names_in_one() -> None:
    other = {**NAMESPACE, "name": "web__"}
    assert names(read(FUNCTION, NAMESPACE, other)) == ["read", "files__read", "web__read"]


def test_a_function_of_a_namespace_is_forced_and_replayed_by_both_names() -> None:
    choice = {"type": "function", "namespace": "files", "name": "read"}
    item = {"type": "function_call", "call_id": "c", "namespace": "files", "name": "read",
        "arguments": "{}"}  # fmt: skip
    request = read(NAMESPACE, tool_choice=choice, input=[item]).request
    assert request.tool_choice == ToolChoice("required", "files__read")
    assert (request.messages or ())[0]["tool_calls"][0]["function"]["name"] == "files__read"


def test_tools_that_the_input_adds_are_offered_once() -> None:
    found = {"type": "tool_search_output", "call_id": "c", "tools": [NAMESPACE, FUNCTION]}
    added = {"type": "additional_tools", "role": "developer", "tools": [{**FUNCTION, "name": "w"}]}
    call = read(FUNCTION, input=[found, added, found])
    assert names(call) == ["read", "files__read", "w"]


def test_a_fault_is_named_where_the_caller_has_it() -> None:
    wide = {**FUNCTION, "name": "w", "parameters": {"x": "y" * 70_000}}
    with pytest.raises(InvalidRequest) as caught:
        read({"type": "web_search"}, {**NAMESPACE, "tools": [FUNCTION, wide]})
    assert caught.value.param == "tools[1].tools[1].parameters"


@pytest.mark.parametrize("sample", [FUNCTION, NAMESPACE], ids=["function", "namespace"])
def test_an_odd_member_of_a_tool_is_read_or_named(sample: dict[str, Any]) -> None:
    for name, member, changed in gone_wrong(sample):
        found = outcome(partial(read, {"type": "web_search"}, changed))
        if isinstance(found, InvalidRequest):
            assert str(found.param).startswith("tools[1]"), (name, member, changed)


@pytest.mark.parametrize("tools", [None, []])
def test_no_tools_are_none(tools: Any) -> None:
    call = read_responses({"input": "Hi", "tools": tools}, id="r", deadline=None)
    assert call.request.tools == ()


def test_more_tools_than_may_be_offered_are_refused_before_the_rest_is_read() -> None:
    many = [{**FUNCTION, "name": f"t{number}"} for number in range(MAX_TOOLS)]
    added = {"type": "additional_tools", "role": "developer", "tools": [{**FUNCTION, "name": "w"}]}
    wrong = {**added, "tools": [{**FUNCTION, "name": 5}]}
    assert len(names(read(*many[1:], input=[added, added]))) == MAX_TOOLS
    with pytest.raises(InvalidRequest) as caught:
        read(*many, input=[added, wrong])
    assert caught.value.param == "tools"


@pytest.mark.parametrize("name", [None, 5, ["p"], {"p": 1}])
def test_a_custom_tool_without_a_name_is_refused_wherever_it_is(name: Any) -> None:
    custom = {"type": "custom", "name": name}
    with pytest.raises(InvalidRequest):
        read(custom)
    added = {"type": "additional_tools", "role": "developer", "tools": [custom, custom]}
    with pytest.raises(InvalidRequest):
        read(input=[added])


@pytest.mark.parametrize("namespace", [None, "", "files"])
@pytest.mark.parametrize("kind", ["function", "custom"])
def test_a_tool_is_chosen_by_the_name_that_it_is_offered_by(kind: str, namespace: Any) -> None:
    tool = {"type": kind, "name": "read"}
    offered = {**NAMESPACE, "tools": [tool]} if namespace else tool
    chosen = {**tool, "namespace": namespace}
    name = "files__read" if namespace else "read"
    expected = ToolChoice("required", name)
    assert read(offered, tool_choice=chosen).request.tool_choice == expected
    allowed = {"type": "allowed_tools", "tools": [chosen, {"type": "web_search"}]}
    call = read(offered, tool_choice=allowed)
    assert call.request.tool_choice == ToolChoice("auto", allowed=(name,))
    assert call.warnings == ()


@pytest.mark.parametrize("kinds", [["web_search"], ["mcp", "moon"], ["x" * 99]])
def test_where_only_foreign_tools_are_allowed_a_warning_says_that_none_is(kinds: Any) -> None:
    allowed = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": each} for each in kinds]}
    call = read(FUNCTION, tool_choice=allowed)
    assert call.request.tool_choice == ToolChoice("none")
    assert call.warnings == (NONE_ALLOWED,)
    with pytest.raises(InvalidRequest) as caught:
        read(FUNCTION, tool_choice={**allowed, "mode": "required"})
    assert caught.value.param == "tool_choice"


def test_who_allows_no_tool_at_all_needs_no_warning() -> None:
    allowed = {"type": "allowed_tools", "mode": "auto", "tools": []}
    call = read(FUNCTION, tool_choice=allowed)
    assert (call.request.tool_choice, call.warnings) == (ToolChoice("none"), ())
