"""Tools of /v1/messages: those of the caller are offered, Anthropic's own left out."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from anthropic.types.beta import BetaToolUnionParam

from gguf_worker.api.anthropic import read_messages
from gguf_worker.api.reading import MAX_TOOLS, GenerationCall
from gguf_worker.errors import InvalidRequest
from tests.api.kinds import gone_wrong, kinds, outcome

TOOL = {"type": "custom", "name": "weather", "description": "of a city", "strict": True,
    "input_schema": {"type": "object"}, "input_examples": [{}], "defer_loading": True,
    "cache_control": {"type": "ephemeral"}}  # fmt: skip
FOREIGN = [*sorted(kinds(BetaToolUnionParam) - {"custom"}), "moon"]


def read(*tools: Any, content: Any = "Hi") -> GenerationCall:
    messages = [{"role": "system", "content": content}, {"role": "user", "content": "Hi"}]
    body = {"max_tokens": 9, "messages": messages, "tools": list(tools)}
    return read_messages(body, id="r", deadline=None)


def names(call: GenerationCall) -> list[str]:
    return [tool["function"]["name"] for tool in call.request.tools]


def addition(definition: Any) -> dict[str, Any]:
    return {"type": "tool_addition", "tool": {"type": "tool_definition", "definition": definition}}


def change(kind: str, name: str) -> dict[str, Any]:
    return {"type": kind, "tool": {"type": "tool_reference", "name": name}}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_tool_that_is_not_run_here_is_left_out_with_a_warning(kind: str) -> None:
    call = read({"type": kind, "name": "x"}, {**TOOL, "input_examples": None})
    assert names(call) == ["weather"]
    assert call.warnings == (f"one part of the kind {kind!r} was left out",)


def test_tools_that_a_message_adds_are_offered_and_those_that_it_removes_are_not() -> None:
    other = {**TOOL, "name": "time"}
    assert names(read(TOOL, content=[addition(other)])) == ["weather", "time"]
    assert names(read(TOOL, content=[addition(TOOL)])) == ["weather"]
    assert names(read(TOOL, content=[change("tool_addition", "weather")])) == ["weather"]
    assert names(read(TOOL, other, content=[change("tool_removal", "weather")])) == ["time"]


def test_a_fault_is_named_where_the_caller_has_it() -> None:
    wide = {**TOOL, "input_schema": {"x": "y" * 70_000}}
    with pytest.raises(InvalidRequest) as caught:
        read({"type": "bash_20250124", "name": "bash"}, wide)
    assert caught.value.param == "tools[1].input_schema"
    with pytest.raises(InvalidRequest) as caught:
        read(content=[addition(wide)])
    assert caught.value.param == "messages[0].content[0].tool.definition.input_schema"


def test_an_odd_member_of_a_tool_is_read_or_named() -> None:
    for name, member, changed in gone_wrong(TOOL):
        found = outcome(partial(read, {"type": "web_search_20250305", "name": "w"}, changed))
        if isinstance(found, InvalidRequest):
            assert str(found.param).startswith("tools[1]"), (name, member, changed)


@pytest.mark.parametrize("content", [[{"type": "tool_addition"}], [change("tool_removal", "x")]])
def test_a_change_that_changes_nothing_is_taken(content: Any) -> None:
    assert names(read(TOOL, content=content)) == ["weather"]


def test_more_tools_than_may_be_offered_are_refused_before_the_rest_is_read() -> None:
    many = [addition({**TOOL, "name": f"t{number}"}) for number in range(MAX_TOOLS + 1)]
    assert len(read(content=many[1:]).request.tools) == MAX_TOOLS
    with pytest.raises(InvalidRequest) as caught:
        read(content=[*many, addition({"name": 5})])
    assert caught.value.param == "tools"
    with pytest.raises(InvalidRequest) as caught:
        read(*[TOOL] * (MAX_TOOLS + 1), {"name": 5})
    assert caught.value.param == "tools"


def test_only_tools_that_are_there_at_once_are_counted() -> None:
    many = [{**TOOL, "name": f"t{number}"} for number in range(MAX_TOOLS)]
    other = {**TOOL, "name": "other"}
    turns = [change("tool_removal", "t0"), addition(other), change("tool_removal", "t1"),
             addition(other)]  # fmt: skip
    assert len(names(read(*many, content=turns))) == MAX_TOOLS - 1


def test_a_tool_that_is_added_anew_stands_last() -> None:
    other = {**TOOL, "name": "time"}
    assert names(read(TOOL, other, content=[addition(TOOL)])) == ["time", "weather"]


def test_two_different_tools_of_one_name_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="two tools of one name"):
        read(TOOL, {**TOOL, "description": "of a town"})
