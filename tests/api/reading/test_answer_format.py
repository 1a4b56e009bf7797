"""The format that an answer has to match: many ways to say it, one grammar."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from gguf_worker.api.reading import GenerationCall
from gguf_worker.api.reading.answer_format import MAX_CHOICES, MAX_GRAMMAR
from gguf_worker.generation import Grammar
from tests.api.readers import chat, completion, fault, native

SCHEMA = {"type": "object", "properties": {"größe": {"type": "integer"}}}
JSON = Grammar("json_schema", json.dumps(SCHEMA, ensure_ascii=False))
OBJECT = Grammar("json_schema", '{"type": "object"}')
NAMED = {"name": "answer", "schema": SCHEMA}
TOOL = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize("read", [chat, completion, native])
@pytest.mark.parametrize(
    ("field", "value", "grammar"),
    [
        ("response_format", {"type": "json_object"}, OBJECT),
        ("response_format", {"type": "json_object", "schema": SCHEMA}, JSON),
        ("response_format", {"type": "json_schema", "json_schema": NAMED}, JSON),
        (
            "response_format",
            {"type": "json_schema", "json_schema": {**NAMED, "strict": True}},
            JSON,
        ),
        ("response_format", {"type": "json_schema", "schema": SCHEMA}, JSON),
        ("json_schema", SCHEMA, JSON),
        ("guided_json", SCHEMA, JSON),
        ("guided_json", json.dumps(SCHEMA), JSON),
        ("guided_regex", "[0-9]+", Grammar("regex", "[0-9]+")),
        ("guided_choice", ["yes", 'n"o'], Grammar("lark", 'start: "yes" | "n\\"o"')),
        ("guided_grammar", "start: /a+/", Grammar("lark", "start: /a+/")),
        ("grammar", "root ::= [a-z]", Grammar("lark", "root ::= [a-z]")),
        ("structured_outputs", {"json": SCHEMA}, JSON),
        ("structured_outputs", {"json_object": True}, OBJECT),
        ("structured_outputs", {"regex": "a|b"}, Grammar("regex", "a|b")),
        ("structured_outputs", {"choice": ["a"]}, Grammar("lark", 'start: "a"')),
        ("structured_outputs", {"grammar": "start: /a/"}, Grammar("lark", "start: /a/")),
    ],
)
def test_every_way_to_say_it_comes_to_one_grammar(
    read: Callable[..., GenerationCall], field: str, value: Any, grammar: Grammar
) -> None:
    call = read(**{field: value})
    assert call.request.grammar == grammar
    assert call.grammar_field == field
    assert call.warnings == ()


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"response_format": {"type": "text"}},
        {"grammar": ""},
        {"guided_regex": ""},
        {"structured_outputs": {}},
        {"structured_outputs": {"json_object": False}},
        {"response_format": None, "grammar": None},
    ],
    ids=str,
)
def test_an_answer_is_free_unless_something_is_asked_of_it(body: dict[str, Any]) -> None:
    assert chat(**body).request.grammar is None
    assert chat(**body).grammar_field is None


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a b"}}},
         "response_format.json_schema.name"),
        ({"response_format": {"type": "json_schema", "json_schema": {**NAMED, "schema": "x"}}},
         "response_format.json_schema.schema"),
        ({"guided_json": "{nonsense"}, "guided_json"),
        ({"guided_json": 5}, "guided_json"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_choice": ["a", ""]}, "guided_choice[1]"),
        ({"guided_choice": ["a"] * (MAX_CHOICES + 1)}, "guided_choice"),
        ({"guided_regex": 5}, "guided_regex"),
        ({"guided_regex": "a" * (MAX_GRAMMAR + 1)}, "guided_regex"),
        ({"json_schema": {"const": "a" * MAX_GRAMMAR}}, "json_schema"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs"),
        ({"guided_regex": "a", "response_format": {"type": "json_object"}}, "guided_regex"),
        ({"guided_regex": "a", "ignore_eos": True}, "ignore_eos"),
    ],
    ids=lambda value: str(value)[:60],
)  # fmt: skip
def test_what_cannot_be_matched_is_refused_by_name(body: dict[str, Any], param: str) -> None:
    error = fault(chat, **body)
    assert error.param is not None
    assert error.param.startswith(param)


@pytest.mark.parametrize("choice", ["none", "auto", "required"])
def test_tools_and_a_format_can_be_sent_together(choice: str) -> None:
    request = chat(guided_regex="a", tools=[TOOL], tool_choice=choice).request
    assert request.grammar == Grammar("regex", "a")
    assert len(request.tools) == 1
