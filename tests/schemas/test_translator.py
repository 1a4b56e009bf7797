"""The translation of schemas: what is closed, dropped, rewritten and relaxed."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from gguf_worker.schemas import translated, translated_arguments
from tests.schemas.client_schemas import SCHEMAS

INTEGER, STRING = {"type": "integer"}, {"type": "string"}


def record(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


@pytest.mark.parametrize(
    ("schema", "closed"),
    [
        (record(a=INTEGER), True),
        (record(), True),
        ({"properties": {"a": INTEGER}}, True),
        ({"type": "object"}, False),
        (record(a=INTEGER) | {"additionalProperties": True}, False),
        (record(a=INTEGER) | {"additionalProperties": {}}, False),
        (record(a=INTEGER) | {"unevaluatedProperties": True}, False),
        (record(a=INTEGER) | {"additionalProperties": False}, True),
        (record(a=INTEGER) | {"unevaluatedProperties": False}, True),
    ],
)
def test_an_object_that_lists_keys_has_no_others_unless_it_says_so(
    schema: dict[str, Any], closed: bool
) -> None:
    within = {"type": "array", "items": {"anyOf": [schema, {"type": "null"}]}}
    named = {"$ref": "#/$defs/x", "$defs": {"x": schema}}
    for whole, steps in (
        (schema, ()),
        (within, ("items", "anyOf", 0)),
        (record(k=schema), ("properties", "k")),
        (named, ("$defs", "x")),
    ):
        found: Any = translated(whole).schema
        for step in steps:
            found = found[step]
        assert (found.get("additionalProperties") is False) is closed, found


def test_a_typed_rest_of_an_object_is_kept() -> None:
    schema = record(a=INTEGER) | {"additionalProperties": {"type": "STRING"}}
    assert translated(schema).schema == record(a=INTEGER) | {"additionalProperties": STRING}


def test_objects_made_of_parts_are_closed_as_a_whole() -> None:
    base = record(a=INTEGER) | {"required": ["a"]}
    schema = {
        "allOf": [{"$ref": "#/$defs/base"}, record(b=STRING)],
        "$defs": {"base": base, "alone": {"$ref": "#/$defs/base"}},
    }
    result = translated(schema)
    assert not result.relaxed
    inner, closing = result.schema["allOf"]  # type: ignore[index]
    assert closing == {"properties": {"a": True, "b": True}, "additionalProperties": False}
    assert inner["allOf"][0] == {"$ref": "#/$defs/base"}
    assert "additionalProperties" not in result.schema["$defs"]["base"]  # type: ignore[index]


def test_one_definition_is_closed_alone_and_open_as_a_part() -> None:
    schema = record(
        alone={"$ref": "#/$defs/b"}, part={"allOf": [{"$ref": "#/$defs/b"}, record(z=INTEGER)]}
    )
    result = translated(schema | {"$defs": {"b": record(a=INTEGER)}})
    definitions = result.schema["$defs"]  # type: ignore[index]
    assert [each.get("additionalProperties") for each in definitions.values()] == [False, None]


@pytest.mark.parametrize(
    "keyword",
    [
        {"propertyNames": {"type": "string"}},
        {"propertyNames": {}},
        {"uniqueItems": False},
        {"not": False},
        {"if": {"minimum": 3}},
        {"then": {"minimum": 3}},
        {"if": True, "then": {}, "else": True},
        {"contains": {}, "minContains": 0},
        {"dependentRequired": {}},
        {"dependentSchemas": {"a": True}},
        {"unevaluatedItems": True},
        {"$schema": "https://example.com/x"},
        {"$id": "https://example.com/x"},
        {"title": "T", "description": "D", "default": 1, "examples": [1], "deprecated": True},
        {"x-order": 3, "example": 1, "xml": {}, "externalDocs": {}, "contentMediaType": "a/b"},
        {"format": "password"},
        {"format": "int64"},
        {"nullable": False},
        {"minProperties": 0, "minItems": 0, "minLength": 0},
    ],
    ids=lambda keyword: next(iter(keyword)),
)
@pytest.mark.parametrize("schema", [STRING, {"type": "array"}, record(a=INTEGER)], ids=str)
def test_what_says_nothing_about_a_value_is_dropped_without_a_word(
    schema: dict[str, Any], keyword: dict[str, Any]
) -> None:
    result = translated({**schema, **keyword})
    assert not result.relaxed
    assert result.schema == translated(schema).schema


@pytest.mark.parametrize(
    ("schema", "written"),
    [
        ({"type": "STRING"}, STRING),
        ({"type": "Integer"}, INTEGER),
        ({"type": "dict"}, {"type": "object"}),
        ({"type": "any"}, True),
        ({"type": "string", "nullable": True}, {"type": ["null", "string"]}),
        ({"type": "string", "enum": ["a"], "nullable": True},
         {"enum": ["a", None], "type": ["null", "string"]}),
        ({"$ref": "#/$defs/a", "nullable": True, "$defs": {"a": INTEGER}},
         {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "null"}], "$defs": {"a": INTEGER}}),
        ({"type": "integer", "minimum": 3, "exclusiveMinimum": True},
         {"type": "integer", "exclusiveMinimum": 3}),
        ({"type": "array", "items": [INTEGER], "additionalItems": STRING},
         {"type": "array", "items": STRING, "prefixItems": [INTEGER]}),
        ({"type": "array", "prefixItems": [INTEGER, STRING]},
         {"type": "array", "prefixItems": [INTEGER, STRING], "items": False, "minItems": 2}),
        ({"not": {}}, False),
        ({"type": "string", "format": "url"}, {"type": "string", "format": "uri"}),
        ({"type": "string", "format": "nanoid"},
         {"type": "string", "pattern": "^[a-zA-Z0-9_-]{21}$"}),
        ({"type": "string", "format": "base64", "pattern": "^x$"},
         {"type": "string", "pattern": "^x$"}),
        ({"const": None}, {"enum": [None], "type": "null"}),
        ({"minLength": "3", "maxLength": 5.0, "type": "string"},
         {"minLength": 3, "maxLength": 5, "type": "string"}),
        ({"propertyNames": {"enum": ["a", "b"]}, "additionalProperties": INTEGER},
         {"type": "object", "properties": {"a": INTEGER, "b": INTEGER},
          "additionalProperties": False}),
        ({"oneOf": [STRING, INTEGER]}, {"anyOf": [STRING, INTEGER]}),
    ],
    ids=lambda value: json.dumps(value)[:50],
)  # fmt: skip
def test_what_is_only_said_otherwise_is_rewritten(schema: Any, written: Any) -> None:
    result = translated(schema)
    assert not result.relaxed
    assert result.schema == written


@pytest.mark.parametrize(
    ("schema", "thing"),
    [
        ({"type": "array", "uniqueItems": True}, "`uniqueItems`"),
        ({"type": "array", "contains": INTEGER}, "`contains`"),
        ({"type": "string", "not": {"const": "a"}}, "`not`"),
        ({"type": "integer", "if": {"minimum": 1}, "then": {"maximum": 5}}, "`if`"),
        ({"type": "string", "format": "phone"}, "`format` 'phone'"),
        ({"type": "string", "pattern": r"\bx"}, r"`\b` in a `pattern`"),
        ({"type": "string", "pattern": "("}, "a `pattern` with"),
        ({"type": "file"}, "`type` 'file'"),
        ({"oneOf": [STRING, {"type": "string", "maxLength": 3}]}, "`oneOf`"),
        ({"$ref": "https://example.com/x"}, "`$ref` 'https://example.com/x'"),
        ({"type": "object", "dependentSchemas": {"a": INTEGER}}, "`dependentSchemas`"),
        ({"type": "integer", "multipleOf": 0}, "`multipleOf` 0"),
        ({"type": "string", "minLength": "x"}, "`minLength`, which is no count"),
        ({"enum": []}, "an empty `enum`"),
    ],
    ids=lambda value: json.dumps(value)[:50],
)
def test_what_an_answer_cannot_be_held_to_is_named_with_its_place(schema: Any, thing: str) -> None:
    (warning,) = translated(record(here=schema)).relaxed.warnings("the answer")
    assert warning.startswith(f"the answer is not held to {thing}")
    assert "(at properties.here)" in warning
    definitions = {"A": record(here=schema)}
    (warning,) = translated({"$ref": "#/$defs/A", "$defs": definitions}).relaxed.warnings("x")
    assert "(at $defs.A.properties.here)" in warning


def test_annotations_do_not_make_another_grammar() -> None:
    bare = record(a=INTEGER) | {"required": ["a"]}
    told = {"title": "T", "$schema": "x", **record(a={**INTEGER, "description": "an a"})}
    assert translated(told | {"required": ["a"]}).text == translated(bare).text


@pytest.mark.parametrize(
    ("parameters", "schema"),
    [
        (None, {"type": "object", "additionalProperties": False}),
        ({}, {"type": "object"}),
        (record(a=INTEGER), record(a=INTEGER) | {"additionalProperties": False}),
        (record(a=record(b=INTEGER)),
         record(a=record(b=INTEGER) | {"additionalProperties": False})
         | {"additionalProperties": False}),
        (record(), {"type": "object", "additionalProperties": False}),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "object"}}},
         {"$ref": "#/$defs/a", "$defs": {"a": {"type": "object"}}, "type": "object"}),
    ],
    ids=lambda value: json.dumps(value)[:50],
)  # fmt: skip
def test_arguments_are_an_object(parameters: Any, schema: Any) -> None:
    (result,) = translated_arguments([parameters])
    assert not result.relaxed
    assert result.schema == schema


@pytest.mark.parametrize(
    "parameters", [{"type": "string"}, {"type": ["array", "null"]}, {"not": {}}]
)
def test_arguments_that_could_not_be_an_object_may_be_any(parameters: Any) -> None:
    (result,) = translated_arguments([parameters])
    assert result.schema == {"type": "object"}
    assert "a type other than that of an object" in result.relaxed.warnings("x")[0]


def nested(levels: int, key: str) -> Any:
    schema: Any = INTEGER
    for _ in range(levels):
        schema = record(k=schema) if key == "properties" else {key: [schema]}
    return schema


HOSTILE: dict[str, Any] = {
    "deep properties": nested(99, "properties"),
    "deep anyOf": nested(99, "anyOf"),
    "deep oneOf": nested(99, "oneOf"),
    "deep allOf": nested(99, "allOf"),
    "wide": record(**{f"k{n}": {"type": "string", "description": "x"} for n in range(2500)}),
    "many oneOf": {"oneOf": [record(**{f"k{n}": INTEGER}) for n in range(2000)]},
    "many references": record(**{f"k{n}": {"$ref": "#/$defs/a"} for n in range(4000)})
    | {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": record(a=INTEGER)}},
    "many broken references": record(**{f"k{n}": {"$ref": f"x{n}"} for n in range(4000)}),
    "combined chain": {
        "$ref": "#/$defs/0",
        "$defs": {
            str(n): {"allOf": [{"$ref": f"#/$defs/{n + 1}"}, {"$ref": f"#/$defs/{n + 1}"}]}
            for n in range(1000)
        },
    },
    "many combined": record(
        **{f"k{n}": {"allOf": [{"$ref": "#/$defs/a"}, record(z=INTEGER)]} for n in range(1500)}
    )
    | {"$defs": {"a": record(**{f"p{n}": INTEGER for n in range(500)})}},
    "names times values": {
        "propertyNames": {"enum": [f"n{n}" for n in range(3000)]},
        "additionalProperties": record(**{f"p{n}": INTEGER for n in range(300)}),
    },
    "rows of oneOf": record(
        **{f"k{n}": {"oneOf": [{"const": m} for m in range(30)]} for n in range(200)}
    ),
    "patterns": record(**{f"k{n}": {"type": "string", "pattern": "(?=" * 40} for n in range(1000)}),
    "nested looks": {"type": "string", "pattern": "^" + "(?=a" * 1000 + ")" * 1000},
    "looks in a row": {"type": "string", "pattern": "^" + "(?=a)" * 1500},
    "anchors": {"type": "string", "pattern": "a$" * 4000},
    "dependencies": record(**{f"k{n}": INTEGER for n in range(1000)})
    | {"dependentRequired": {f"k{n}": [f"k{m}" for m in range(20)] for n in range(1000)}},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_the_work_for_a_strangers_schema_is_bounded(name: str) -> None:
    schema = HOSTILE[name]
    result = translated(schema)
    assert len(result.text) < 500_000
    assert len(result.relaxed.warnings("x")) <= 16


def test_the_work_for_many_tools_is_bounded_together() -> None:
    parameters = record(**{f"k{n}": {"type": "array", "uniqueItems": True} for n in range(1000)})
    first, *_, last = translated_arguments([parameters] * 128)
    assert isinstance(first.schema, dict)
    assert len(first.schema["properties"]) == 1000
    assert last.schema == {"type": "object"}
    assert "too large" in last.relaxed.warnings("x")[0]


JUNK: list[Any] = [
    None, True, False, 0, -1, 1.5, 1e400, float("nan"), 10**4000, "", "x", "(", [], [[]], [None],
    ["a", "a"], {}, {"": {}}, {"$ref": "#"}, {"$ref": 5}, {"type": {}}, {"enum": {}}, {"not": []},
]  # fmt: skip


def mutated(schema: Any, chance: random.Random) -> Any:
    """The schema with junk in one or two places."""
    if chance.random() < 0.15:
        return chance.choice(JUNK)
    if isinstance(schema, dict) and schema:
        key = chance.choice(list(schema))
        return {**schema, key: mutated(schema[key], chance)}
    if isinstance(schema, list) and schema:
        at = chance.randrange(len(schema))
        return [*schema[:at], mutated(schema[at], chance), *schema[at + 1 :]]
    return chance.choice(JUNK)


@pytest.mark.parametrize("name", SCHEMAS)
def test_no_junk_in_a_schema_breaks_its_translation(name: str) -> None:
    chance = random.Random(name)
    for _ in range(4):
        schema = SCHEMAS[name]
        for _ in range(3):
            schema = mutated(schema, chance)
        for result in (translated(schema), *translated_arguments([schema, schema])):
            assert isinstance(result.schema, dict | bool)
            assert all(len(each) < 300 for each in result.relaxed.warnings("x"))
