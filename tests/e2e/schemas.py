"""Two hundred JSON schemas of growing difficulty, for the test that answers match them.

All are bounded (lengths, items), so that an answer to each has an end that a small model finds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]


def all_schemas() -> list[tuple[str, Schema]]:
    """Return all schemas, easy ones first, each with a name that says what it tries."""
    families = (
        _scalars(),
        _formats(),
        _flat(),
        _arrays(),
        _nested(),
        _maps(),
        _unions(),
        _references(),
        _recursive(),
        _tasks(),
    )
    return [each for family in families for each in family]


def text(most: int = 12, **more: Any) -> Schema:
    return {"type": "string", "maxLength": most, **more}


def whole(low: int = 0, high: int = 999) -> Schema:
    return {"type": "integer", "minimum": low, "maximum": high}


def record(properties: Schema, required: list[str] | None = None, **more: Any) -> Schema:
    """Return an object with these properties and no others, by default all of them required."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties) if required is None else required,
        "additionalProperties": False,
        **more,
    }


def optional(definition: str) -> Schema:
    """Return null or what a definition of the schema says."""
    return {"anyOf": [{"$ref": f"#/$defs/{definition}"}, {"type": "null"}]}


def several(items: Schema, least: int = 0, most: int = 3) -> Schema:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


def _scalars() -> Iterator[tuple[str, Schema]]:
    yield "a boolean", {"type": "boolean"}
    yield "null", {"type": "null"}
    constants: list[Any] = ["fixed", 42, -1.5, True, None, ["a", 1], {"a": {"b": []}}]
    for value in constants:
        yield f"the constant {value!r}", {"const": value}
    for values in (
        ["red", "green"],
        [1, 2, 3],
        ["a", 1, None, True],
        ['quo"te', "back\\slash", "ü"],
    ):
        yield f"one of {values!r}", {"enum": values}
    for count in (20, 100, 300):
        yield f"one of {count}", {"enum": [f"value {n}" for n in range(count)]}
    for low, high in ((0, 9), (-50, -10), (1900, 2100), (-3, 100_000)):
        yield f"an integer from {low} to {high}", whole(low, high)
    yield "an integer above and below", {
        "type": "integer", "exclusiveMinimum": 5, "exclusiveMaximum": 15,
    }  # fmt: skip
    yield "a multiple", {"type": "integer", "minimum": 0, "maximum": 1000, "multipleOf": 25}
    yield "a number", {"type": "number", "minimum": 0, "maximum": 1}
    for least, most in ((0, 5), (3, 3), (1, 40)):
        yield f"a text of {least} to {most}", text(most, minLength=least)


def _formats() -> Iterator[tuple[str, Schema]]:
    for name in ("date", "time", "date-time", "duration", "uuid", "ipv4", "ipv6"):
        yield f"a {name}", {"type": "string", "format": name}
        yield f"two of {name}", several({"type": "string", "format": name}, 2, 2)
        yield f"a {name} or none", record({"at": {"type": ["string", "null"], "format": name}})
    for pattern in (
        "^[A-Z]{3}$",
        "^[0-9]{4}-[0-9]{2}$",
        "^(yes|no|perhaps)$",
        "^#[0-9a-f]{6}$",
        "^[a-z]+(-[a-z]+){1,2}$",
        r"^\+[0-9]{6,12}$",
        r"^v[0-9]{1,2}\.[0-9]{1,2}$",
        "^[äöüß]{2,4}$",
    ):
        bounded = pattern.replace("[a-z]+", "[a-z]{1,8}")
        yield f"a text like {bounded}", {"type": "string", "pattern": bounded}


def _flat() -> Iterator[tuple[str, Schema]]:
    kinds: list[Schema] = [
        text(),
        whole(),
        {"type": "boolean"},
        {"enum": ["low", "high"]},
        {"type": "number", "minimum": 0, "maximum": 10},
        {"type": "string", "format": "date"},
        {"type": ["string", "null"], "maxLength": 8},
        {"const": "v1"},
    ]
    for size in range(1, 9):
        yield f"a record of {size}", record({f"field_{n}": kinds[n] for n in range(size)})
    for size in range(2, 9):
        properties = {f"field_{n}": kinds[-1 - n] for n in range(size)}
        yield f"a record of {size}, the first needed", record(properties, ["field_0"])
    for size in range(2, 11):
        properties = {f"field_{n}": whole(0, 9) for n in range(size)}
        needed = [name for n, name in enumerate(properties) if n % 2]
        yield f"a record of {size}, every second needed", record(properties, needed)
    yield "a record of none", record({})
    yield "a record of nothing needed", record({"a": text(), "b": whole()}, [])
    for name in ("with space", "größe", "a.b", 'quo"te', "$id-like", "0", "", "emoji 🌊"):
        yield f"a field called {name!r}", record({name: whole(0, 9), "other": {"type": "boolean"}})


def _arrays() -> Iterator[tuple[str, Schema]]:
    for items in (text(), whole(), {"type": "boolean"}, {"enum": ["a", "b"]}, {"type": "null"}):
        for least, most in ((0, 2), (2, 4), (3, 3)):
            yield f"{least} to {most} of {items}", several(items, least, most)
    yield "lists of lists", several(several(whole(0, 9), 1, 3), 2, 2)
    yield (
        "lists of lists of lists",
        several(several(several({"type": "boolean"}, 1, 2), 1, 2), 1, 2),
    )
    yield "a pair", {
        "type": "array", "prefixItems": [text(), whole()], "items": False, "minItems": 2,
    }  # fmt: skip
    yield "a head and more", {
        "type": "array", "prefixItems": [text()], "items": whole(), "minItems": 1, "maxItems": 4,
    }  # fmt: skip
    yield "records", several(record({"id": whole(), "name": text()}), 1, 3)


def _nested() -> Iterator[tuple[str, Schema]]:
    inner: Schema = record({"value": whole(0, 9)})
    for depth in range(1, 17):
        inner = record({"level": {"const": depth}, "inner": inner})
        yield f"records {depth} deep", inner
    for width in range(1, 6):
        yield (
            f"{width} records beside each other",
            record(
                {f"part_{n}": record({"x": whole(0, 99), "y": whole(0, 99)}) for n in range(width)}
            ),
        )
    for depth in range(1, 5):
        schema: Schema = text(6)
        for _ in range(depth):
            schema = record({"items": several(schema, 1, 2)})
        yield f"records of lists, {depth} deep", schema


def _maps() -> Iterator[tuple[str, Schema]]:
    yield "any fields of one kind", {
        "type": "object", "additionalProperties": whole(0, 9),
        "minProperties": 1, "maxProperties": 3,
    }  # fmt: skip
    yield "known and other fields", {
        "type": "object", "properties": {"id": whole()}, "required": ["id"],
        "additionalProperties": {"type": "boolean"}, "maxProperties": 3,
    }  # fmt: skip
    for count in range(1, 5):
        yield f"{count} fields by their pattern", {
            "type": "object", "patternProperties": {"^x[0-9]$": whole(0, 9)},
            "additionalProperties": False, "minProperties": count, "maxProperties": count,
        }  # fmt: skip


def _unions() -> Iterator[tuple[str, Schema]]:
    yield "a text or an integer", {"anyOf": [text(), whole()]}
    yield "one of two kinds", {"oneOf": [{"type": "string", "maxLength": 5}, {"type": "integer",
        "minimum": 0, "maximum": 99}]}  # fmt: skip
    yield "types in a list", {"type": ["boolean", "null"]}
    for count in range(2, 9):
        options = [
            record({"kind": {"const": f"kind_{n}"}, f"of_{n}": whole(0, 9)}) for n in range(count)
        ]
        yield f"{count} kinds with a tag", {"anyOf": options}
        yield f"exactly one of {count} kinds", {"oneOf": options}
    yield (
        "all of two halves",
        {
            "allOf": [
                {"type": "object", "properties": {"a": text(5)}, "required": ["a"]},
                {"type": "object", "properties": {"b": whole(0, 9)}, "required": ["b"]},
            ],
            "additionalProperties": False,
            "properties": {"a": True, "b": True},
        },
    )
    yield "a narrowed integer", {"allOf": [whole(0, 50), {"minimum": 40}]}
    yield (
        "a list of either",
        several({"anyOf": [whole(0, 9), {"enum": ["x"]}, {"type": "null"}]}, 3, 3),
    )
    yield "either of two lists", {"anyOf": [several(whole(0, 9), 1, 2), several(text(4), 1, 2)]}
    for count in range(1, 4):
        yield (
            f"{count} fields that may be null",
            record({f"maybe_{n}": {"anyOf": [text(6), {"type": "null"}]} for n in range(count)}),
        )


def _references() -> Iterator[tuple[str, Schema]]:
    point = record({"x": whole(0, 99), "y": whole(0, 99)})
    for count in range(1, 6):
        yield (
            f"{count} uses of one definition",
            {
                **record({f"at_{n}": {"$ref": "#/$defs/point"} for n in range(count)}),
                "$defs": {"point": point},
            },
        )
    for length in range(1, 6):
        links: Schema = {
            f"link_{n}": record({"next": {"$ref": f"#/$defs/link_{n + 1}"}}) for n in range(length)
        }
        yield f"a chain of {length} definitions", {
            "$ref": "#/$defs/link_0", "$defs": {**links, f"link_{length}": whole(0, 9)},
        }  # fmt: skip
    yield "old definitions", {
        **record({"a": {"$ref": "#/definitions/a"}}), "definitions": {"a": {"enum": [1, 2]}},
    }  # fmt: skip
    yield (
        "a definition in a list in a definition",
        {
            **several({"$ref": "#/$defs/row"}, 1, 2),
            "$defs": {"row": several({"$ref": "#/$defs/cell"}, 2, 2), "cell": whole(0, 9)},
        },
    )
    yield (
        "definitions that are unions",
        {
            **record({"shape": {"$ref": "#/$defs/shape"}}),
            "$defs": {
                "shape": {"anyOf": [{"$ref": "#/$defs/circle"}, {"$ref": "#/$defs/square"}]},
                "circle": record({"radius": whole(1, 9)}),
                "square": record({"side": whole(1, 9)}),
            },
        },
    )


def _recursive() -> Iterator[tuple[str, Schema]]:
    for most in range(1, 4):
        node = record({"name": text(5), "children": several({"$ref": "#/$defs/node"}, 0, most)})
        yield f"a tree of {most} branches", {"$ref": "#/$defs/node", "$defs": {"node": node}}
    rest = {"anyOf": [{"$ref": "#/$defs/list"}, {"type": "null"}]}
    for items in (whole(0, 9), {"type": "boolean"}, text(3)):
        yield f"a linked list of {items['type']}", {
            "$ref": "#/$defs/list", "$defs": {"list": record({"head": items, "tail": rest})},
        }  # fmt: skip
    yield (
        "an expression",
        {
            "$ref": "#/$defs/expression",
            "$defs": {
                "expression": {"anyOf": [whole(0, 99), {"$ref": "#/$defs/operation"}]},
                "operation": record(
                    {
                        "operator": {"enum": ["+", "-"]},
                        "left": {"$ref": "#/$defs/expression"},
                        "right": whole(0, 99),
                    }
                ),
            },
        },
    )
    yield "two that know each other", {
        "$ref": "#/$defs/person",
        "$defs": {
            "person": record({"name": text(6), "pet": optional("pet")}),
            "pet": record({"owner": optional("person")}),
        },
    }  # fmt: skip


def _tasks() -> Iterator[tuple[str, Schema]]:
    address = record({"street": text(16), "city": text(12), "zip": text(5, minLength=5)})
    yield "a person", record({"name": text(16), "age": whole(0, 120), "address": address})
    yield (
        "a sentiment",
        record(
            {"sentiment": {"enum": ["positive", "neutral", "negative"]}, "score": whole(0, 100)}
        ),
    )
    yield (
        "an invoice",
        record(
            {
                "number": {"type": "string", "pattern": "^[A-Z]{2}[0-9]{4}$"},
                "date": {"type": "string", "format": "date"},
                "lines": several(record({"item": text(10), "count": whole(1, 20)}), 1, 2),
                "paid": {"type": "boolean"},
            }
        ),
    )
    yield (
        "a recipe",
        record({"title": text(16), "steps": several(text(16), 1, 3), "minutes": whole(1, 90)}),
    )
    yield (
        "a ticket",
        record(
            {
                "priority": {"enum": ["low", "medium", "high"]},
                "assignee": {"anyOf": [text(10), {"type": "null"}]},
                "labels": several({"enum": ["bug", "docs", "speed"]}, 0, 3),
            }
        ),
    )
    yield (
        "a route",
        record(
            {
                "from": text(10),
                "to": text(10),
                "stops": several(record({"at": {"type": "string", "format": "time"}}), 0, 2),
            }
        ),
    )
    yield "a chart", record(
        {
            "kind": {"enum": ["bar", "line"]},
            "series": several(
                record({"label": text(6), "points": several(whole(0, 99), 2, 3)}), 1, 2
            ),
        }
    )  # fmt: skip
    yield "entities", record(
        {"entities": several({"anyOf": [
            record({"type": {"const": "person"}, "name": text(10)}),
            record({"type": {"const": "place"}, "country": text(10)}),
        ]}, 1, 3)}
    )  # fmt: skip
    yield "a verdict", record({"reasoning": text(60), "answer": {"type": "boolean"}})
    yield (
        "a comment with answers",
        {
            "$ref": "#/$defs/comment",
            "$defs": {
                "comment": record(
                    {"text": text(10), "answers": several({"$ref": "#/$defs/comment"}, 0, 1)}
                )
            },
        },
    )
    yield "a form", record(
        {
            "title": text(10),
            "fields": several({"oneOf": [
                record({"widget": {"const": "text"}, "length": whole(1, 99)}),
                record({"widget": {"const": "choice"}, "options": several(text(5), 1, 2)}),
            ]}, 1, 2),
        }
    )  # fmt: skip
    yield (
        "a plan",
        record(
            {
                "goal": text(20),
                "steps": several(
                    record({"do": text(16), "after": several(whole(0, 9), 0, 2)}), 1, 2
                ),
            }
        ),
    )
    yield (
        "a game",
        record(
            {
                "board": several(several({"enum": ["X", "O", ""]}, 3, 3), 3, 3),
                "turn": {"enum": ["X", "O"]},
            }
        ),
    )
    yield "settings", record(
        {
            "theme": {"enum": ["light", "dark"]},
            "volume": {"type": "number", "minimum": 0, "maximum": 1},
            "shortcuts": {"type": "object", "additionalProperties": text(5), "maxProperties": 2},
        }
    )  # fmt: skip
    yield (
        "a translation",
        record({"source": {"const": "en"}, "target": {"enum": ["de", "tr"]}, "text": text(30)}),
    )
