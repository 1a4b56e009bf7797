"""Schemas in dialects that people write by hand or other servers made usual: Google's, OpenAPI's,
old drafts, and one for each keyword of the standard's own tests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

STRING, INTEGER, NUMBER = {"type": "string"}, {"type": "integer"}, {"type": "number"}


def record(properties: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """An object that requires all of its properties."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        **more,
    }


GOOGLE: dict[str, Any] = {
    "record": {
        "type": "OBJECT",
        "properties": {"b": {"type": "STRING"}, "a": {"type": "INTEGER", "format": "int32"}},
        "propertyOrdering": ["a", "b"],
        "required": ["a"],
    },
    "enum": {"type": "STRING", "format": "enum", "enum": ["x", "y"]},
    "nullable": record({"a": {"type": "NUMBER", "format": "float", "nullable": True}}),
    "counts as texts": {
        "type": "ARRAY",
        "items": {"type": "STRING"},
        "minItems": "1",
        "maxItems": "3",
    },
    "any of": {"anyOf": [{"type": "STRING"}, {"type": "INTEGER"}]},
    "unspecified": record({"a": {"type": "TYPE_UNSPECIFIED"}}),
    "numbers as texts of an integer": {"type": "INTEGER", "enum": ["1", "2"]},
    "date-time": {"type": "STRING", "format": "date-time"},
    "no properties": {"type": "OBJECT", "properties": {}},
    "nested": record(
        {"list": {"type": "ARRAY", "items": record({"a": {"type": "BOOLEAN"}}, nullable=True)}}
    ),
}

PET = record({"petType": STRING}, discriminator={"propertyName": "petType"})
OPENAPI: dict[str, Any] = {
    "nullable reference": {
        **record({"pet": {"nullable": True, "allOf": [{"$ref": "#/components/schemas/Pet"}]}}),
        "components": {"schemas": {"Pet": PET}},
    },
    "inheritance": {
        "$ref": "#/components/schemas/Cat",
        "components": {
            "schemas": {
                "Pet": PET,
                "Cat": {
                    "allOf": [{"$ref": "#/components/schemas/Pet"}, record({"lives": INTEGER})]
                },
            }
        },
    },
    "closed inheritance": {
        "allOf": [
            record({"a": INTEGER}, additionalProperties=False),
            record({"b": INTEGER}, additionalProperties=False),
        ]
    },
    "union of references": {
        "oneOf": [{"$ref": "#/components/schemas/A"}, {"$ref": "#/components/schemas/B"}],
        "discriminator": {"propertyName": "kind", "mapping": {"a": "#/components/schemas/A"}},
        "components": {
            "schemas": {
                "A": record({"kind": {"type": "string", "enum": ["a"]}, "x": INTEGER}),
                "B": record({"kind": {"type": "string", "enum": ["b"]}, "y": INTEGER}),
            }
        },
    },
    "overlapping union": {
        "oneOf": [record({"a": INTEGER}), {"type": "object", "properties": {"b": INTEGER}}]
    },
    "exclusive flags": {
        "type": "number",
        "minimum": 0,
        "exclusiveMinimum": True,
        "maximum": 10,
        "exclusiveMaximum": False,
    },
    "formats": record(
        {
            name: {"type": "string", "format": name}
            for name in ("byte", "binary", "password", "date", "uuid", "uri", "ipv4", "phone")
        }
    ),
    "numeric formats": record(
        {"a": {"type": "integer", "format": "int64"}, "b": {"type": "number", "format": "double"}}
    ),
    "example": record({"a": {"type": "string", "example": "x", "xml": {"name": "A"}}}),
    "read only": record({"id": {"type": "integer", "readOnly": True}}, description=None),
    "map": {
        "type": "object",
        "additionalProperties": {"$ref": "#/components/schemas/V"},
        "components": {"schemas": {"V": INTEGER}},
    },
    "deprecated": record({"a": {**STRING, "deprecated": True}}, externalDocs={"url": "x"}),
    "generic names": {
        "$ref": "#/components/schemas/Page[User, int]",
        "components": {"schemas": {"Page[User, int]": record({"n": INTEGER})}},
    },
    "encoded names": {
        "$ref": "#/components/schemas/Page%5BUser%5D",
        "components": {"schemas": {"Page[User]": record({"n": INTEGER})}},
    },
    "nullable enum": {"type": "string", "enum": ["a", "b"], "nullable": True},
    "nullable union": {"nullable": True, "oneOf": [STRING, INTEGER]},
}

DRAFTS: dict[str, Any] = {
    "3, required within": {"type": "object", "properties": {"a": {**STRING, "required": True}}},
    "4": {
        "$schema": "http://json-schema.org/draft-04/schema#",
        "id": "http://example.com/root.json",
        **record({"a": {"$ref": "#/definitions/positive"}}),
        "definitions": {"positive": {"type": "integer", "minimum": 0, "exclusiveMinimum": True}},
    },
    "6": {"$schema": "http://json-schema.org/draft-06/schema#", "const": "x"},
    "7 tuple": {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "array",
        "items": [STRING, INTEGER],
        "additionalItems": False,
    },
    "7 if": {
        "$schema": "http://json-schema.org/draft-07/schema#",
        **record({"kind": {"enum": ["a", "b"]}}),
        "if": {"properties": {"kind": {"const": "a"}}},
        "then": {"properties": {"x": STRING}, "required": ["x"]},
        "else": {"properties": {"y": STRING}},
    },
    "7 dependencies": {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "properties": {"a": INTEGER, "b": INTEGER},
        "dependencies": {"a": ["b"]},
    },
    "2019 recursive": {
        "$schema": "https://json-schema.org/draft/2019-09/schema",
        **record({"kids": {"type": "array", "items": {"$recursiveRef": "#"}, "maxItems": 2}}),
    },
    "2020 dynamic": {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$dynamicAnchor": "node",
        **record({"kids": {"type": "array", "items": {"$dynamicRef": "#node"}, "maxItems": 2}}),
    },
    "unknown": {"$schema": "https://example.com/my-schema", **record({"a": INTEGER})},
    "by address": {
        "$id": "https://example.com/schemas/customer",
        **record({"address": {"$ref": "/schemas/address"}}),
        "$defs": {"address": {"$id": "/schemas/address", **record({"city": STRING})}},
    },
    "by anchor": {
        **record({"a": {"$ref": "#here"}}),
        "$defs": {"x": {"$anchor": "here", **INTEGER}},
    },
    "by place": record({"a": INTEGER, "b": {"$ref": "#/properties/a"}}),
    "elsewhere": record({"a": {"$ref": "https://example.com/other.json#/x"}}),
    "nowhere": record({"a": {"$ref": "#/$defs/missing"}}),
    "itself": record({"a": {"$ref": "#/$defs/a"}}, **{"$defs": {"a": {"$ref": "#/$defs/a"}}}),
    "pointers with signs": record(
        {"a": {"$ref": "#/$defs/a~1b~0c%25d"}}, **{"$defs": {"a/b~c%d": INTEGER}}
    ),
}

KEYWORDS: dict[str, Any] = {
    "propertyNames of any text": {"type": "object", "propertyNames": {"type": "string"}},
    "propertyNames of a pattern": {
        "type": "object",
        "propertyNames": {"pattern": "^[a-z]{1,3}$"},
        "additionalProperties": INTEGER,
    },
    "propertyNames beside properties": {
        **record({"a": INTEGER}),
        "propertyNames": {"maxLength": 3},
        "additionalProperties": True,
    },
    "propertyNames of a list": {"propertyNames": {"enum": ["a", "b"]}},
    "propertyNames of a format": {"type": "object", "propertyNames": {"format": "email"}},
    "uniqueItems": {"type": "array", "items": {"enum": [1, 2]}, "uniqueItems": True},
    "uniqueItems, not": {"type": "array", "items": INTEGER, "uniqueItems": False},
    "not": {"type": "string", "not": {"const": "no"}},
    "not anything": {"type": "object", "properties": {"a": INTEGER, "never": {"not": {}}}},
    "if alone": {**INTEGER, "if": {"minimum": 3}},
    "then alone": {**INTEGER, "then": {"minimum": 3}},
    "if": {**INTEGER, "if": {"minimum": 3}, "then": {"multipleOf": 2}},
    "contains": {"type": "array", "items": INTEGER, "contains": {"const": 7}},
    "contains, maybe": {"type": "array", "items": INTEGER, "contains": {}, "minContains": 0},
    "minContains": {"type": "array", "contains": STRING, "minContains": 2, "maxContains": 3},
    "dependentRequired": {
        "type": "object",
        "properties": {"card": INTEGER, "name": STRING, "code": INTEGER},
        "dependentRequired": {"card": ["name", "code"], "code": ["card"]},
    },
    "many dependentRequired": {
        "type": "object",
        "properties": {f"k{n}": INTEGER for n in range(8)},
        "dependentRequired": {f"k{n}": [f"k{n + 1}"] for n in range(7)},
    },
    "dependentSchemas": {
        "type": "object",
        "properties": {"a": INTEGER},
        "dependentSchemas": {"a": {"properties": {"b": INTEGER}, "required": ["b"]}},
    },
    "unevaluatedProperties": {
        "allOf": [record({"a": INTEGER}), {"properties": {"b": STRING}}],
        "unevaluatedProperties": False,
    },
    "unevaluatedProperties of branches": {
        "type": "object",
        "properties": {"k": STRING},
        "anyOf": [record({"a": INTEGER}), record({"b": INTEGER})],
        "unevaluatedProperties": False,
    },
    "unevaluatedProperties of a type": {
        "type": "object",
        "properties": {"a": INTEGER},
        "unevaluatedProperties": STRING,
    },
    "unevaluatedItems": {
        "type": "array",
        "prefixItems": [INTEGER],
        "unevaluatedItems": False,
    },
    "minProperties": {"type": "object", "additionalProperties": INTEGER, "minProperties": 2},
    "minProperties of optional": {
        "type": "object",
        "properties": {"a": INTEGER, "b": INTEGER, "c": INTEGER},
        "minProperties": 2,
    },
    "one of the properties": {
        "type": "object",
        "properties": {"a": INTEGER, "b": INTEGER},
        "minProperties": 1,
        "maxProperties": 1,
    },
    "any one required": {
        "type": "object",
        "properties": {"a": INTEGER, "b": STRING},
        "anyOf": [{"required": ["a"]}, {"required": ["b"]}],
    },
    "patternProperties": {
        "type": "object",
        "patternProperties": {"^n_": NUMBER, "^s_": STRING},
        "additionalProperties": False,
    },
    "patternProperties that overlap": {
        "type": "object",
        "patternProperties": {"a": INTEGER, "b": {"minimum": 3}},
    },
    "patternProperties beside properties": {
        "type": "object",
        "properties": {"n_a": {"maximum": 3}},
        "patternProperties": {"^n_": INTEGER},
        "required": ["n_a"],
    },
    "required but not listed": {"type": "object", "properties": {"a": INTEGER}, "required": ["z"]},
    "required but closed": {
        "type": "object",
        "properties": {"a": INTEGER},
        "required": ["a", "z"],
        "additionalProperties": False,
    },
    "typeless properties": {"properties": {"a": INTEGER}, "required": ["a"]},
    "typeless items": {"items": INTEGER},
    "typeless pattern": {"pattern": "^a+$"},
    "typeless minimum": {"minimum": 3},
    "several keywords without a type": {"minimum": 3, "minLength": 2},
    "look-ahead": {**STRING, "pattern": r"^(?=.*[A-Z])(?=.*\d)[A-Za-z\d]{3,8}$"},
    "negative look-ahead": {**STRING, "pattern": "^(?!admin)[a-z]+$"},
    "look-behind": {**STRING, "pattern": "(?<=a)b$"},
    "word boundary": {**STRING, "pattern": r"\bfoo\b"},
    "back-reference": {**STRING, "pattern": r"^(a|b)\1$"},
    "unanchored": {**STRING, "pattern": "b+"},
    "half anchored": {**STRING, "pattern": "^b"},
    "alternatives with anchors": {**STRING, "pattern": "^a$|^b$"},
    "an anchor within": {**STRING, "pattern": "a^b"},
    "Unicode property": {**STRING, "pattern": r"^\p{L}+$"},
    "brackets and ampersands": {**STRING, "pattern": "^[[&&a-]+$"},
    "braces": {**STRING, "pattern": "^{[a-z]{2}}$"},
    "a pattern that is none": {**STRING, "pattern": "("},
    "a long pattern": {**STRING, "pattern": "a?" * 5000},
    "unknown format": {**STRING, "format": "license-plate"},
    "upper bounds as floats": {**STRING, "minLength": 1.0, "maxLength": 3.0},
    "bounds that exclude": {"type": "array", "items": INTEGER, "minItems": 3, "maxItems": 1},
    "a range that is empty": {**INTEGER, "minimum": 5, "maximum": 2},
    "huge bounds": {**INTEGER, "minimum": -(2**63), "maximum": 2**64},
    "safe integers": {**INTEGER, "minimum": -(2**53) + 1, "maximum": 2**53 - 1},
    "beyond": {**NUMBER, "minimum": 1e300},
    "tiny": {**NUMBER, "exclusiveMinimum": 1e-300},
    "multipleOf cents": {**NUMBER, "multipleOf": 0.01, "minimum": 0, "maximum": 5},
    "multipleOf many digits": {**NUMBER, "multipleOf": 0.1234567},
    "multipleOf zero": {**INTEGER, "multipleOf": 0},
    "values of all types": {"enum": ["a", 1, 1.5, None, True, [1], {"a": {"b": 2}}]},
    "values of another type": {**INTEGER, "enum": ["a", "b"]},
    "some values of another type": {**STRING, "enum": ["a", None, 3]},
    "no values": {"enum": []},
    "null": {"const": None},
    "an object": {"const": {"a": [1, {"b": None}]}},
    "const beside a type": {**STRING, "const": "x"},
    "no branches": {"anyOf": []},
    "oneOf of types": {"oneOf": [STRING, {"type": "null"}, {"type": "array", "items": INTEGER}]},
    "oneOf of required": {
        "type": "object",
        "properties": {"a": INTEGER, "b": INTEGER},
        "oneOf": [{"required": ["a"]}, {"required": ["b"]}],
    },
    "oneOf that overlaps": {"oneOf": [{**INTEGER, "minimum": 2}, {**INTEGER, "maximum": 5}]},
    "oneOf of objects": {"oneOf": [record({"a": INTEGER}), record({"b": INTEGER})]},
    "allOf of one": {"allOf": [record({"a": INTEGER})], "description": "x"},
    "allOf of objects": {
        "allOf": [record({"a": INTEGER}), record({"b": INTEGER})],
        "properties": {"c": STRING},
    },
    "allOf of unions": {
        "allOf": [
            {"anyOf": [record({"a": INTEGER}), record({"b": INTEGER})]},
            {"anyOf": [record({"c": INTEGER}), record({"d": INTEGER})]},
        ]
    },
    "allOf that narrows": {"allOf": [{**STRING, "maxLength": 5}, {"minLength": 2}]},
    "Python's names of types": record(
        {
            "a": {"type": "str"},
            "b": {"type": "int"},
            "c": {"type": "float"},
            "d": {"type": "dict"},
            "e": {"type": "list"},
            "f": {"type": "bool"},
            "g": {"type": "any"},
        }
    ),
    "an unknown type": record({"a": {"type": "file"}}),
    "several types": {"type": ["string", "integer", "null"], "maxLength": 3, "minimum": 0},
    "no types": {"type": []},
    "nulls everywhere": {
        "type": "object",
        "properties": {"a": {"type": "string", "pattern": None}},
        "required": None,
        "additionalProperties": None,
        "title": None,
    },
    "wrong types everywhere": {
        "type": "object",
        "properties": [],
        "required": "a",
        "minLength": "x",
        "items": 5,
        "anyOf": {},
        "minProperties": -1,
    },
    "true": True,
    "empty": {},
    "json_object": {"type": "object"},
    "deep": {"type": "object"},
    "wide": record({f"field{n}": {"anyOf": [STRING, INTEGER]} for n in range(60)}),
}

_deep: Any = INTEGER
for _ in range(90):
    _deep = {"type": "array", "items": _deep, "minItems": 1, "maxItems": 1}
KEYWORDS["deep"] = _deep


def dialect_schemas() -> Iterator[tuple[str, Any]]:
    """Yield the schemas by a name."""
    for dialect, schemas in (
        ("Google", GOOGLE),
        ("OpenAPI", OPENAPI),
        ("draft", DRAFTS),
        ("keyword", KEYWORDS),
    ):
        for name, each in schemas.items():
            yield f"{dialect}: {name}", each
