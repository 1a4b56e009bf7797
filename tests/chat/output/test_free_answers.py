"""Grammars of answers that may call: text is free, and a call is held to its tool from its mark."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer
from llguidance._tokenizer import TokenizerWrapper

from gguf_worker.chat import Family, Thinking
from gguf_worker.chat.output import family_table
from gguf_worker.chat.output.grammar import MAX_CALLS
from gguf_worker.generation import Grammar
from tests.chat.output.families import (
    CLOCK,
    FAMILIES,
    PARIS,
    TEMPLATES,
    TOOLS,
    control_marks,
    written,
)

MARKS = tuple(sorted({mark for family in FAMILIES.values() for mark in control_marks(family)}))
END = 256 + len(MARKS)
SPECIAL = {mark: 256 + number for number, mark in enumerate(MARKS)}


class _Vocabulary:
    """All bytes, and every mark as a special token."""

    eos_token_id = END
    bos_token_id = None
    tokens = (
        *(bytes([byte]) for byte in range(256)),
        *(b"\xff" + mark.encode() for mark in MARKS),
        b"\xff<end>",
    )
    special_token_ids = ()

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


@pytest.fixture(scope="module")
def tokenizer() -> LLTokenizer:
    return LLTokenizer(TokenizerWrapper(_Vocabulary()))


class Held:
    """Texts of one family's answers against its grammar; `tokens`: its marks are special tokens."""

    def __init__(self, tokenizer: LLTokenizer, family: Family, tokens: bool, **more: Any) -> None:
        marks = control_marks(family) if tokens else ()
        self._special = {mark: SPECIAL[mark] for mark in marks}
        more = {"tools": TOOLS, "free": True, **more}
        grammar = family.answer_grammar(special=self._special, **more)
        self._tokenizer = tokenizer
        self._grammar = LLMatcher.grammar_from_lark(grammar)

    def accepts(self, text: str) -> bool:
        matcher = LLMatcher(self._tokenizer, self._grammar)
        assert not matcher.is_error(), matcher.get_error()
        wanted = list(self._tokens(text))
        return matcher.try_consume_tokens(wanted) == len(wanted) and matcher.is_accepting()

    def _tokens(self, text: str) -> list[int]:
        if not self._special:
            return list(text.encode())
        tokens: list[int] = []
        for part in re.split("(" + "|".join(map(re.escape, self._special)) + ")", text):
            tokens += [self._special[part]] if part in self._special else part.encode()
        return tokens


each_family = pytest.mark.parametrize("name", FAMILIES)
tokens_or_text = pytest.mark.parametrize("tokens", [True, False], ids=["tokens", "text"])
SOME = "I look <b>at</b> the {weather} [1, 2].\n\n"


def lead(family: Family, text: str) -> str:
    """Return text before a call; messages have it in one of their own, unmarked calls have none."""
    if family.call_format.interludes:
        return f"<|channel|>commentary<|message|>{text}<|end|><|start|>assistant"
    return text if family.call_format.mark else ""


def said(family: Family, text: str) -> str:
    """Return an answer that is only text."""
    return f"<|channel|>final<|message|>{text}" if family.call_format.interludes else text


def test_the_table_has_no_family_that_is_not_tried_here() -> None:
    for row in family_table._TABLE:
        fitting = [template for template in TEMPLATES.values() if row.fits(template)]
        assert fitting, row.family.name


@tokens_or_text
@each_family
def test_text_that_calls_nothing_is_free(tokenizer: LLTokenizer, name: str, tokens: bool) -> None:
    family = FAMILIES[name]
    for parallel in (True, False):
        held = Held(tokenizer, family, tokens, parallel=parallel)
        for text in ("", "Hello.", SOME, "1 < 2 > <i", '{"a": [1]}', '["a"]', "é🦙"):
            if text or not family.call_format.interludes:
                assert held.accepts(said(family, text)), text


@each_family
def test_an_answer_that_goes_on_from_a_text_is_more_of_it_and_then_what_may_come(
    tokenizer: LLTokenizer, name: str
) -> None:
    family = FAMILIES[name]
    held = Held(tokenizer, family, True, within=True, parallel=False)
    for text in ("", " blue.", SOME):
        assert held.accepts(text), text
    if family.call_format.interludes:
        for text in ("", " blue."):
            begun = f"{text}<|end|><|start|>assistant"
            assert held.accepts(begun + written(family, ("get_weather", PARIS)))
            assert held.accepts(begun + said(family, "More."))
            assert not held.accepts(begun + written(family, ("get_weather", {"days": 9})))
        assert not held.accepts(said(family, "blue."))


@tokens_or_text
@each_family
def test_a_call_of_a_strict_tool_is_held_to_its_schema(
    tokenizer: LLTokenizer, name: str, tokens: bool
) -> None:
    family = FAMILIES[name]
    held = Held(tokenizer, family, tokens)
    for before in ("", lead(family, SOME)):
        assert held.accepts(before + written(family, ("get_weather", PARIS)))
        assert held.accepts(before + written(family, ("get_weather", {"city": "Rome"})))
        for wrong in ({}, {"city": "Rome", "days": 9}, {"city": "Rome", "other": 1}):
            assert not held.accepts(before + written(family, ("get_weather", wrong))), wrong
        assert not held.accepts(before + written(family, ("get_snow", PARIS)))


@tokens_or_text
@each_family
def test_a_demanded_call_is_written_alike_and_is_all_there_is(
    tokenizer: LLTokenizer, name: str, tokens: bool
) -> None:
    family = FAMILIES[name]
    held = Held(tokenizer, family, tokens, free=False, parallel=False)
    call = written(family, ("get_weather", PARIS))
    assert held.accepts(call)
    for other in ("", "Hello.", f"Well. {call}", call + call):
        assert not held.accepts(other), other
    for wrong in ({}, {"city": "Rome", "days": 9}, {"city": "Rome", "other": 1}):
        assert not held.accepts(written(family, ("get_weather", wrong)))


@tokens_or_text
@each_family
def test_a_call_of_another_tool_is_held_to_its_name_and_to_an_object(
    tokenizer: LLTokenizer, name: str, tokens: bool
) -> None:
    family = FAMILIES[name]
    held = Held(tokenizer, family, tokens)
    for arguments in ({}, {"zone": "UTC", "more": "<b>"}):
        assert held.accepts(written(family, ("get_time", arguments))), arguments


@tokens_or_text
@each_family
def test_where_no_tool_is_strict_names_that_begin_alike_are_told_apart(
    tokenizer: LLTokenizer, name: str, tokens: bool
) -> None:
    family = FAMILIES[name]
    names = ("get", "get_time", "get_time_of_day", "other")
    tools = [{"type": "function", "function": {"name": each}} for each in names]
    held = Held(tokenizer, family, tokens, tools=tools, parallel=False)
    for each in names:
        for arguments in ({}, {"zone": "UTC"}):
            assert held.accepts(lead(family, SOME) + written(family, (each, arguments)))
    for each in ("ge", "get_", "others"):
        assert not held.accepts(written(family, (each, {})))


@tokens_or_text
@each_family
def test_one_call_is_the_last_thing_where_only_one_may_be(
    tokenizer: LLTokenizer, name: str, tokens: bool
) -> None:
    family = FAMILIES[name]
    call = ("get_weather", PARIS)
    for parallel in (True, False):
        held = Held(tokenizer, family, tokens, parallel=parallel)
        assert held.accepts(written(family, call))
        several = parallel and family.call_format.many
        assert held.accepts(written(family, call, call)) is several
        assert held.accepts(written(family, call) + " Then.") is several
    assert held.accepts(written(family, *[call] * (MAX_CALLS + 1))) is False


@tokens_or_text
@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.thinks])
def test_a_thought_before_free_text_may_speak_of_calls(
    tokenizer: LLTokenizer, name: str, tokens: bool
) -> None:
    family = FAMILIES[name]
    if family.call_format.interludes:
        opened, closed = "<|channel|>analysis<|message|>", "<|end|><|start|>assistant"
    else:
        opened, closed = family.thought.open, family.thought.close
    call = written(family, ("get_weather", PARIS))
    thought = "Hm, <tool_call> or <function=x>{ [f("
    ends = (said(family, "Well."), lead(family, "So:\n") + call, call)
    for end in ends:
        begun = Held(tokenizer, family, tokens, thinking=Thinking.BEGUN)
        assert begun.accepts(thought + closed + end)
        assert not begun.accepts(thought)
        optional = Held(tokenizer, family, tokens, thinking=Thinking.OPTIONAL)
        assert optional.accepts(opened + thought + closed + end)
        assert optional.accepts(end)


@each_family
def test_a_call_in_a_notation_that_nothing_holds_cannot_be_written(
    tokenizer: LLTokenizer, name: str
) -> None:
    family = FAMILIES[name]
    if family.call_format.interludes:
        return
    held = Held(tokenizer, family, False)
    for mark in ("<tool_call>", *family.notations):
        if mark != family.call_format.mark:
            assert not held.accepts(f"Well. {mark}f"), mark


@each_family
def test_only_the_tools_that_are_allowed_can_be_called(tokenizer: LLTokenizer, name: str) -> None:
    family = FAMILIES[name]
    held = Held(tokenizer, family, True, tools=[CLOCK])
    assert held.accepts(written(family, ("get_time", {})))
    assert not held.accepts(written(family, ("get_weather", PARIS)))


@pytest.mark.parametrize(
    "parameters", [None, {"type": "object", "properties": {}, "additionalProperties": False}]
)
@each_family
def test_a_strict_tool_without_parameters_is_called_without_arguments(
    tokenizer: LLTokenizer, name: str, parameters: Any
) -> None:
    family = FAMILIES[name]
    function = {"name": "f", "strict": True, "parameters": parameters}
    held = Held(tokenizer, family, True, tools=[{"type": "function", "function": function}])
    assert held.accepts(written(family, ("f", {})))
    assert not held.accepts(written(family, ("f", {"a": "b"})))


@each_family
def test_a_thousand_tools_that_are_not_strict_fit_a_grammar(name: str) -> None:
    tools = [
        {"type": "function", "function": {"name": f"a_tool_of_some_server_{n}"}}
        for n in range(1024)
    ]
    family = FAMILIES[name]
    for parallel in (True, False):
        grammar = family.answer_grammar(tools, free=True, parallel=parallel)
        assert len(grammar) < Grammar.MOST_CHARACTERS, len(grammar)


VALUES: Mapping[str, tuple[Any, list[Any], list[Any]]] = {
    "a number": ({"type": "number"}, [1, -2.5], ["x", None]),
    "a choice": ({"enum": ["a", "ab"]}, ["a", "ab"], ["b", "abc"]),
    "a list": ({"type": "array", "items": {"type": "integer"}}, [[], [1, 2]], [["x"], 1]),
    "a reference": ({"$ref": "#/$defs/N"}, [7], ["x"]),
    "a text or nothing": ({"type": ["string", "null"]}, ["", "a\n<b>"], []),
    "anything": ({}, ["a"], []),
}


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize(
    "name", [name for name, family in FAMILIES.items() if family.call_format.parameter]
)
def test_a_value_between_tags_is_held_to_its_schema(
    tokenizer: LLTokenizer, name: str, kind: str
) -> None:
    schema, right, wrong = VALUES[kind]
    parameters = {
        "type": "object",
        "properties": {"v": schema},
        "required": ["v"],
        "$defs": {"N": {"type": "integer"}},
    }
    function = {"name": "f", "strict": True, "parameters": parameters}
    family = FAMILIES[name]
    tool = {"type": "function", "function": function}
    held = Held(tokenizer, family, True, tools=[tool])
    for value in right:
        call = written(family, ("f", {"v": value}))
        assert held.accepts(call), call
        parser = family.parser([tool])
        events = [*parser.feed(call), *parser.flush()]
        arguments = "".join(getattr(event, "text", "") for event in events)
        assert json.loads(arguments) == {"v": value}
    for value in wrong:
        assert not held.accepts(written(family, ("f", {"v": value}))), value
