"""The calls of an answer: as many as may be, and no markup in the text, wherever it is cut."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gguf_worker.chat import ChatTemplate
from gguf_worker.engine import Delta
from gguf_worker.generation import Grammar
from gguf_worker.providers import (
    Finish,
    GenerationRequest,
    Part,
    TextDelta,
    ToolCallDelta,
    ToolChoice,
)
from gguf_worker.providers.local import LocalProvider
from gguf_worker.providers.local.offered_tools import OfferedTools
from tests.chat.output.families import FAMILIES, PARIS, TOOLS, WEATHER, written
from tests.providers.local.test_provider import (
    CHATML,
    ScriptedEngine,
    chat_request,
    end,
)

TEMPLATE = ChatTemplate(CHATML, "", "")
LEAD = "I look."
CHOICES = {
    "auto": ToolChoice("auto"),
    "required": ToolChoice("required"),
    "named": ToolChoice("required", "get_weather"),
    "none": ToolChoice("none"),
}
each_family = pytest.mark.parametrize("name", FAMILIES)
each_choice = pytest.mark.parametrize("choice", CHOICES)


async def answer(
    name: str, text: str, request: GenerationRequest, finish: str = "stop"
) -> tuple[list[Part], ScriptedEngine]:
    cuts = [text[at : at + 20] for at in range(0, len(text), 20)]
    engine = ScriptedEngine(*(Delta(1, cut, 1) for cut in cuts), end(finish))
    provider = LocalProvider(
        engine,  # type: ignore[arg-type]
        TEMPLATE,
        family=FAMILIES[name],
        new_id=lambda: "call_1",
    )
    return [part async for part in provider.answer(request)], engine


def content(parts: list[Part]) -> str:
    return "".join(part.text for part in parts if isinstance(part, TextDelta))


def calls(parts: list[Part]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for part in parts:
        if isinstance(part, ToolCallDelta) and part.name is not None:
            found.append((part.name, part.text))
        elif isinstance(part, ToolCallDelta):
            found[part.call] = (found[part.call][0], found[part.call][1] + part.text)
    return found


def last(parts: list[Part]) -> Finish:
    assert isinstance(parts[-1], Finish)
    return parts[-1]


def text_of(name: str, count: int) -> str:
    """Return an answer with a lead, where the notation has a place for it, and calls."""
    family = FAMILIES[name]
    call = written(family, *[("get_weather", PARIS)] * count)
    if family.call_format.interludes:
        return f"<|channel|>commentary<|message|>{LEAD}<|end|><|start|>assistant{call}"
    return f"{LEAD}\n{call}" if family.call_format.mark else call


@pytest.mark.parametrize("parallel", [True, False], ids=["parallel", "one"])
@each_choice
@each_family
async def test_a_whole_answer_has_the_calls_that_may_be_and_no_markup(
    name: str, choice: str, parallel: bool
) -> None:
    several = FAMILIES[name].call_format.many
    request = chat_request(tools=TOOLS, tool_choice=CHOICES[choice], parallel_calls=parallel)
    parts, _ = await answer(name, text_of(name, 2 if several else 1), request)
    if choice == "none" and FAMILIES[name].unmarked is not None:
        assert not calls(parts)  # nothing tells its calls from the JSON that may be asked for
        return
    most = {"none": 0, "named": 1}.get(choice, 2 if parallel else 1)
    found = calls(parts)
    assert len(found) == min(most, 2 if several else 1)
    assert all(name == "get_weather" and json.loads(args) == PARIS for name, args in found)
    assert content(parts).strip() in (LEAD, "")
    assert last(parts).reason == ("tool_calls" if found else "stop")
    left_out = len(found) < (2 if several else 1)
    assert bool(last(parts).warnings) is left_out


@each_choice
@each_family
async def test_an_answer_that_was_cut_anywhere_has_no_markup_and_no_false_arguments(
    name: str, choice: str
) -> None:
    several = FAMILIES[name].call_format.many
    text = text_of(name, 2 if several else 1)
    request = chat_request(tools=TOOLS, tool_choice=CHOICES[choice])
    for at in range(len(text)):
        parts, _ = await answer(name, text[:at], request, "length")
        found = calls(parts)
        assert last(parts).reason == "length"
        if choice == "none" and FAMILIES[name].unmarked is not None:
            assert not found
            continue
        assert LEAD.startswith(content(parts).strip()), text[:at]
        for called, arguments in found:
            assert called == "get_weather"
            try:
                assert json.loads(arguments) == PARIS
            except ValueError:
                assert (called, arguments) == found[-1]


@each_choice
async def test_the_beginning_of_text_that_might_be_a_mark_is_text_if_the_model_ended_there(
    choice: str,
) -> None:
    request = chat_request(tools=TOOLS, tool_choice=CHOICES[choice])
    parts, _ = await answer("hermes", "1 <tool", request)
    assert content(parts) == "1 <tool"
    parts, _ = await answer("hermes", "1 <tool", chat_request(), "length")
    assert content(parts) == "1 <tool"


@each_family
@pytest.mark.parametrize(
    ("more", "held"),
    [
        ({"tools": TOOLS}, True),
        ({"tools": TOOLS[1:]}, False),
        ({"tools": TOOLS[1:], "parallel_calls": False}, True),
        ({"tools": TOOLS[1:], "tool_choice": ToolChoice("auto", allowed=("get_time",))}, True),
        ({"tools": TOOLS, "tool_choice": ToolChoice("none")}, False),
        ({"parallel_calls": False}, False),
    ],
    ids=["strict", "loose", "one call", "allowed", "none", "no tools"],
)
async def test_an_answer_is_held_to_a_grammar_only_if_something_asks_for_it(
    name: str, more: dict[str, Any], held: bool
) -> None:
    _, engine = await answer(name, "", chat_request(**more))
    assert (engine.asked[0][2]["grammar"] is not None) is held


@pytest.mark.parametrize("choice", ["auto", "required"])
async def test_only_allowed_tools_are_in_the_grammar_and_all_are_in_the_prompt(
    choice: Any,
) -> None:
    request = chat_request(tools=TOOLS, tool_choice=ToolChoice(choice, allowed=("get_time",)))
    _, engine = await answer("hermes", "", request)
    grammar: Grammar = engine.asked[0][2]["grammar"]
    assert "get_time" in grammar.text
    assert "get_weather" not in grammar.text
    assert "get_weather" in engine.asked[0][0]


async def test_a_tool_that_is_named_is_called_once() -> None:
    request = chat_request(tools=TOOLS, tool_choice=CHOICES["named"])
    _, engine = await answer("hermes", "", request)
    assert "{0,15}" not in engine.asked[0][2]["grammar"].text


# Names


NAMES = (
    "mcp:server/tool",
    "List[Dict[str, int]]",
    "a b",
    "ünï",
    "1st",
    "get-weather",
    "x" * 128,
    "x" * 200,
    "---",
    "a.b",
)


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {**WEATHER["function"], "name": name}}  # type: ignore[dict-item]


@pytest.mark.parametrize("original", NAMES)
@each_family
async def test_a_tool_of_any_name_is_called_by_it(name: str, original: str) -> None:
    family = FAMILIES[name]
    tools = (named(original), named("other"))
    offered = OfferedTools(tools, python_names=family.python_names)
    known = offered.functions[0]["function"]["name"]
    text = written(family, (known, PARIS))
    parts, engine = await answer(name, text, chat_request(tools=tools))
    assert calls(parts) == [(original, json.dumps(PARIS))]
    if known != original:
        assert f'"{original}"' not in engine.asked[0][0]
    assert f'"{known}"' in engine.asked[0][0]


async def test_names_that_become_the_same_word_stay_apart() -> None:
    tools = [named(each) for each in ("a:b", "a/b", "a_b", "a b")]
    offered = OfferedTools(tools)
    known = [tool["function"]["name"] for tool in offered.functions]
    assert len(set(known)) == 4
    assert known[2] == "a_b"
    assert [offered.original(each) for each in known] == [
        (each, False) for each in ("a:b", "a/b", "a_b", "a b")
    ]


async def test_calls_in_the_history_have_the_names_that_the_model_knows() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "mcp:s/t", "arguments": "{}"}}
    messages = (
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "name": "mcp:s/t", "content": "ok"},
    )
    for tools in ((named("mcp:s/t"),), ()):
        request = GenerationRequest("r", chat_request().sampling, messages=messages, tools=tools)
        _, engine = await answer("hermes", "", request)
        assert "mcp_s_t" in engine.asked[0][0]
        assert "mcp:s/t" not in engine.asked[0][0]


# Custom tools


def custom(name: str = "apply_patch", **more: Any) -> dict[str, Any]:
    return {"type": "custom", "custom": {"name": name, **more}}


@pytest.mark.parametrize("input", ["", '*** Begin\n"x" \\ é🦙\t\n', "{}", "\\u0041"])
@each_family
async def test_a_custom_tool_gets_its_text(name: str, input: str) -> None:
    if FAMILIES[name].call_format.parameter:
        input = input.strip("\n\t")  # tags are on lines of their own
    text = written(FAMILIES[name], ("apply_patch", {"input": input}))
    parts, engine = await answer(name, text, chat_request(tools=(custom(description="Patches"),)))
    assert calls(parts) == [("apply_patch", input)]
    assert all(part.custom for part in parts if isinstance(part, ToolCallDelta))
    assert "Patches" in engine.asked[0][0]


async def test_a_custom_tools_regular_expression_holds_its_text() -> None:
    grammar = {"syntax": "regex", "definition": "[0-9]+"}
    tools = (custom(format={"type": "grammar", "grammar": grammar}),)
    _, engine = await answer("hermes", "", chat_request(tools=tools))
    assert "^(?:[0-9]+)$" in engine.asked[0][2]["grammar"].text
