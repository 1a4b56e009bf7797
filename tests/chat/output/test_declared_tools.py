from __future__ import annotations

from typing import Any

import pytest

from gguf_worker.chat.output.declared_tools import DeclaredTools


def argument(schema: object, text: str) -> Any:
    parameters = {
        "type": "object",
        "properties": {"p": schema},
        "$defs": {
            "count": {"type": "integer"},
            "loop": {"$ref": "#/$defs/loop"},
            "a/b": {"type": "string"},
            "many": {"anyOf": [{"$ref": "#/$defs/many"}] * 50},
        },
    }
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    return DeclaredTools([tool]).argument("f", "p", text)


@pytest.mark.parametrize(
    ("schema", "text", "expected"),
    [
        ({"type": "string"}, "5", "5"),
        ({"type": "string"}, ' {"a": 1}\n', ' {"a": 1}\n'),
        ({"enum": ["1", "2"]}, "1", "1"),
        ({"const": "true"}, "true", "true"),
        ({"$ref": "#/$defs/a~1b"}, "5", "5"),
        ({"type": "integer"}, "5", 5),
        ({"type": "integer"}, " 5 ", 5),
        ({"type": "integer"}, "5.0", 5.0),
        ({"type": "integer"}, "5.5", "5.5"),
        ({"type": "integer"}, "five", "five"),
        ({"type": "number"}, "1e3", 1000.0),
        ({"type": "number"}, "NaN", "NaN"),
        ({"type": "boolean"}, "true", True),
        ({"type": "boolean"}, "False", False),
        ({"type": "null"}, "None", None),
        ({"type": "array"}, "[1, 2]", [1, 2]),
        ({"type": "array"}, "1, 2", "1, 2"),
        ({"type": "object"}, '{"a": [null]}', {"a": [None]}),
        ({"type": ["string", "null"]}, "null", None),
        ({"type": ["string", "null"]}, "5", "5"),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, "5", 5),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, "true", "true"),
        ({"allOf": [{"$ref": "#/$defs/count"}]}, "5", 5),
        ({"$ref": "#/$defs/count"}, "5", 5),
        ({"$ref": "#/$defs/loop"}, "5", 5),
        ({"$ref": "#/nowhere"}, "5", 5),
        ({"enum": [1, "a"]}, "1", 1),
        ({"anyOf": 3, "allOf": [4]}, "5", 5),
        ({"$ref": "#/$defs/many"}, "5", 5),
        ({}, "5", 5),
        ({}, "Paris", "Paris"),
        (True, "[1]", [1]),
        ({"type": "array"}, "[" * 100_000, "[" * 100_000),
        ({"type": "integer"}, "9" * 5000, "9" * 5000),
    ],
)
def test_a_text_is_what_the_schema_allows(schema: object, text: str, expected: Any) -> None:
    value = argument(schema, text)
    assert value == expected
    assert type(value) is type(expected)


def test_an_argument_that_is_not_declared_is_read_as_json() -> None:
    declared = DeclaredTools([{"type": "function", "function": {"name": "f"}}])
    assert declared.argument("f", "p", "5") == 5
    assert declared.argument("g", "p", "x") == "x"
    assert "f" in declared
    assert "g" not in declared
    assert not DeclaredTools([])
