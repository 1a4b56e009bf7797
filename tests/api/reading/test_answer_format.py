"""The format that an answer has to match: many ways to say it, one grammar."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from gguf_worker.api.anthropic import read_messages
from gguf_worker.api.openai import read_responses
from gguf_worker.api.reading import GenerationCall
from gguf_worker.api.reading.answer_format import MAX_CHOICES, MAX_GRAMMAR
from gguf_worker.errors import InvalidRequest
from gguf_worker.generation import Grammar
from tests.api.readers import chat, completion, fault, native

SCHEMA = {"type": "object", "properties": {"größe": {"type": "integer"}}}
JSON = Grammar(
    "json_schema", json.dumps({**SCHEMA, "additionalProperties": False}, ensure_ascii=False)
)
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


@pytest.mark.parametrize("name", ["Page[User, int]", "a b", "x" * 128, "", None, "é.…/"])
def test_a_schema_may_have_any_name_or_none(name: str | None) -> None:
    named = {"type": "json_schema", "json_schema": {**NAMED, "name": name}}
    assert chat(response_format=named).request.grammar == JSON
    described = {"type": "json_schema", "json_schema": {"schema": SCHEMA}}
    assert chat(response_format=described).request.grammar == JSON


@pytest.mark.parametrize("named", [SCHEMA, {"$ref": "#/$defs/a", "$defs": {"a": SCHEMA}}])
def test_a_schema_may_stand_where_its_name_and_it_should(named: dict[str, Any]) -> None:
    bare = chat(response_format={"type": "json_schema", "json_schema": named}).request.grammar
    assert bare == chat(guided_json=named).request.grammar


MEMBERS: dict[str, Any] = {"name": 5, "schema": 5, "strict": "yes", "description": 5}
"""The members of a named schema, each with a value of a wrong type."""


def _chat_with(named: dict[str, Any]) -> GenerationCall:
    return chat(response_format={"type": "json_schema", "json_schema": named})


def _responses_with(named: dict[str, Any]) -> GenerationCall:
    format = {"type": "json_schema", **named}
    return read_responses({"input": "Hi", "text": {"format": format}}, id="r", deadline=None)


@pytest.mark.parametrize("read", [_chat_with, _responses_with], ids=["chat", "responses"])
@pytest.mark.parametrize("member", MEMBERS)
def test_a_member_that_is_null_is_as_good_as_missing_and_a_wrong_one_is_refused_by_name(
    read: Callable[[dict[str, Any]], GenerationCall], member: str
) -> None:
    whole: dict[str, Any] = {**NAMED, "strict": True, "description": "d"}
    missing = {name: each for name, each in whole.items() if name != member}
    if (read, member) != (_responses_with, "schema"):  # there a schema is what it is for
        assert read({**whole, member: None}).request == read(missing).request
    empty = {"name": "", "schema": {}, "strict": False, "description": ""}[member]
    assert read({**whole, member: empty}).warnings == ()
    with pytest.raises(InvalidRequest) as caught:
        read({**whole, member: MEMBERS[member]})
    assert caught.value.param is not None
    assert caught.value.param.endswith(f".{member}")


@pytest.mark.parametrize("type", ["text", "json_object"])
@pytest.mark.parametrize("rest", [None, {}, {"name": None}, {"schema": None}])
def test_what_a_type_has_no_use_for_may_be_null_or_empty(type: str, rest: Any) -> None:
    sent = {"type": type, "json_schema": rest, "schema": None}
    wanted = None if type == "text" else OBJECT
    assert chat(response_format=sent).request.grammar == wanted


RELAXED = {"type": "object", "properties": {"tags": {"type": "array", "uniqueItems": True}}}
NOT_HELD = "the answer is not held to `uniqueItems` (at properties.tags)"


def _responses(schema: Any, strict: bool | None) -> GenerationCall:
    format = {"type": "json_schema", "name": "Page[User]", "schema": schema, "strict": strict}
    return read_responses({"input": "Hi", "text": {"format": format}}, id="r", deadline=None)


def _messages(schema: Any, strict: bool | None) -> GenerationCall:
    messages = [{"role": "user", "content": "Hi"}]
    config = {"format": {"type": "json_schema", "schema": schema}}
    body = {"messages": messages, "max_tokens": 5, "model": "m", "output_config": config}
    return read_messages(body, id="r", deadline=None)


def _named(schema: Any, strict: bool | None) -> GenerationCall:
    named = {"name": "x", "schema": schema, "strict": strict}
    return chat(response_format={"type": "json_schema", "json_schema": named})


def _field(read: Callable[..., GenerationCall], field: str) -> Callable[..., GenerationCall]:
    return lambda schema, _: read(**{field: schema})


WAYS: dict[str, Callable[[Any, bool | None], GenerationCall]] = {
    "chat": _named,
    "responses": _responses,
    "messages": _messages,
    "native guided_json": _field(native, "guided_json"),
    "completion guided_json": _field(completion, "guided_json"),
    "guided_json as text": lambda schema, _: native(guided_json=json.dumps(schema)),
    "json_schema": _field(completion, "json_schema"),
    "structured_outputs": lambda schema, _: chat(structured_outputs={"json": schema}),
    "json_object": lambda schema, _: chat(
        response_format={"type": "json_object", "schema": schema}
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_a_schema_cannot_be_held_to_is_relaxed_with_a_warning_on_every_route(way: str) -> None:
    call = WAYS[way](RELAXED, False if way in ("chat", "responses") else None)
    assert call.warnings == (NOT_HELD,)
    assert call.request.grammar is not None
    assert "uniqueItems" not in call.request.grammar.text


@pytest.mark.parametrize(("way", "field"), [("chat", "response_format.json_schema"),
                                            ("responses", "text.format")])  # fmt: skip
def test_a_strict_schema_is_followed_whole_or_refused_by_name(way: str, field: str) -> None:
    with pytest.raises(InvalidRequest, match=r"`uniqueItems` \(at properties.tags\)") as caught:
        WAYS[way](RELAXED, True)
    assert caught.value.param == field
    assert f"`{field}`" in caught.value.message
    assert WAYS[way](SCHEMA, True).warnings == ()


def test_one_grammar_under_two_names_is_one_grammar() -> None:
    format = {"type": "json_schema", "json_schema": NAMED}
    told = {**SCHEMA, "title": "Sizes"}
    call = chat(response_format=format, guided_json=told, structured_outputs={"json": SCHEMA})
    assert call.request.grammar == JSON
    assert call.grammar_field == "response_format"
    twice = chat(guided_json=RELAXED, json_schema=RELAXED)
    assert twice.warnings == (NOT_HELD,)


def test_two_names_for_different_grammars_are_refused() -> None:
    format = {"type": "json_schema", "json_schema": NAMED}
    error = fault(chat, response_format=format, guided_json=SCHEMA, json_schema=RELAXED)
    assert error.param == "json_schema"
    assert "`response_format`" in error.message


@pytest.mark.parametrize("choice", ["none", "auto", "required"])
def test_tools_and_a_format_can_be_sent_together(choice: str) -> None:
    request = chat(guided_regex="a", tools=[TOOL], tool_choice=choice).request
    assert request.grammar == Grammar("regex", "a")
    assert len(request.tools) == 1
