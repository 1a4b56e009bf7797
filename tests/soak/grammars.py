"""Grammars, schemas and tools that are expensive to compile or to follow."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from tests.soak.attempts import Attempt, posted
from tests.soak.texts import Target

_MESSAGES = [{"role": "user", "content": "Give an example as JSON."}]
_REGEX_BOMBS = (
    "(a+)+b",
    "(a|aa|aaa)*c",
    "([a-z]{1,50}){1,50}",
    "[a-z]{1,100000}",
    "(x{1,1000}){1,1000}",
    r"(\w+\s?)*!",
    "(?=.*a)(?=.*b).*",
    "(" * 500 + "a" + ")" * 500,
    "|".join(f"word{number}" for number in range(10_000)),
    "[\\s\\S]*" * 40,
    "((((((a?)?)?)?)?)?){1000}",
    "(",
)
_LARK_BOMBS = (
    'start: x\nx: x x | "a" | "b" | " " | /[a-z]+/',
    'start: x\nx: x x x | "a" | ""',
    "start: a\na: b a | a b |\nb: a | /./",
    "start: start",
    "start: /(a+)+b/ start | /./",
    "start: " + " | ".join(f'"w{number}" start' for number in range(3000)) + ' | "e"',
    "start: " + "(" * 300 + '"a"' + ")" * 300,
    'start: "a"{1,100000}',
    'start: x{1,1000}\nx: y{1,1000}\ny: /[a-z]/ | "b"{1,1000}',
    "start: missing",
    "%ignore /./\nstart: /.*/ start | /.*/",
    "\n".join(
        ["start: r0", *(f"r{n}: r{n + 1} r{n + 1} | r{n + 1}" for n in range(60)), 'r60: "a"']
    ),
)
_GBNF_BOMBS = (
    'root ::= x\nx ::= x x | "a" | "b" | " " | [a-z]+',
    "root ::= root root | [^\\x00]",
    'root ::= "a"{1,100000}',
    "root ::= (root)* | (root)+",
    "root ::= " + "(" * 500 + '"a"' + ")" * 500,
    'root ::= [a-z]* [a-z]* [a-z]* [a-z]* [a-z]* "!"',
    'root ::= undefined | "x"',
    "\n".join(
        ["root ::= r0", *(f"r{n} ::= r{n + 1} r{n + 1} | " for n in range(60)), 'r60 ::= "a"']
    ),
)


def _held(label: str, **fields: Any) -> Attempt:
    body = {"messages": _MESSAGES, "max_tokens": 24, **fields}
    return posted("/v1/chat/completions", body, label)


def regexes(target: Target, chance: Random) -> Attempt:
    regex = chance.choice(_REGEX_BOMBS)
    return _held(f"regex {regex[:30]}", guided_regex=regex)


def lark_grammars(target: Target, chance: Random) -> Attempt:
    grammar = chance.choice(_LARK_BOMBS)
    return _held(f"lark {grammar[:40]!r}", guided_grammar=grammar)


def gbnf_grammars(target: Target, chance: Random) -> Attempt:
    grammar = chance.choice(_GBNF_BOMBS)
    return _held(f"GBNF {grammar[:40]!r}", grammar=grammar)


def large_grammars(target: Target, chance: Random) -> Attempt:
    size = chance.choice((131_072, 131_073, 1_000_000))
    grammar = ('start: "a"\n' + "#" * size)[:size]
    field = chance.choice(("guided_grammar", "grammar", "guided_regex"))
    return _held(f"{size} characters of {field}", **{field: grammar})


def choices(target: Target, chance: Random) -> Attempt:
    count = chance.choice((1024, 1025, 50_000))
    return _held(f"{count} choices", guided_choice=[f"{n} sea {n * n}" for n in range(count)])


def _nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


def _fields(count: int, each: Any, **more: Any) -> dict[str, Any]:
    names = [f"field{number}" for number in range(count)]
    return {"type": "object", "properties": dict.fromkeys(names, each), "required": names, **more}


def _schema(chance: Random) -> tuple[str, Any]:
    """Return a schema with a name for it."""
    tree = {
        "$defs": {"t": {"type": "object", "properties": {"l": {"$ref": "#/$defs/t"}}}},
        "$ref": "#/$defs/t",
    }
    loop = {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}
    any_of = {"anyOf": [_fields(8, {"type": "integer", "minimum": n}) for n in range(60)]}
    made = {
        "recursive": tree,
        "a loop of references": loop,
        "60 kinds of objects": any_of,
        "60 fields": _fields(60, {"anyOf": [{"type": "string"}, {"type": "null"}]}),
        "2,000 optional fields": {**_fields(2000, {"type": "integer"}), "required": []},
        "90 levels": _nested(90),
        "199 levels": _nested(199),
        "10,000 words": {"enum": [f"word {number}" for number in range(8_000)]},
        "a bomb of a pattern": {"type": "string", "pattern": chance.choice(_REGEX_BOMBS[:8])},
        "a long text": {"type": "string", "minLength": 1_000_000, "maxLength": 10**9},
        "a long list": {"type": "array", "items": True, "minItems": 10**6},
        "multiples": {"type": "number", "multipleOf": 0.00001, "maximum": 1e300},
        "a range of numbers": {"type": "integer", "minimum": -(10**30), "maximum": 10**30},
        "all of 200": {"allOf": [{"type": "integer", "minimum": n} for n in range(200)]},
        "one of 60": {"oneOf": [{"type": "integer", "maximum": n} for n in range(60)]},
        "patterns of names": {"patternProperties": {f"^{n}.*": True for n in range(200)}},
        "an unknown keyword": {"type": "string", "contentMediaType": "x", "if": {}, "then": {}},
        "nothing that fits": {"type": "integer", "minimum": 5, "maximum": 4},
    }
    return chance.choice(sorted(made.items()))


def schemas(target: Target, chance: Random) -> Attempt:
    name, schema = _schema(chance)
    described = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    return _held(f"schema: {name}", response_format=described)


def schemas_of_many_answers(target: Target, chance: Random) -> Attempt:
    name, schema = _schema(chance)
    return _held(f"schema, n=16: {name}", guided_json=schema, n=16)


def fresh_schemas(target: Target, chance: Random) -> Attempt:
    """A middling schema that nobody has sent before, so that each is compiled."""
    tag = f"{chance.getrandbits(60):x}"
    schema = _fields(40, {"enum": [f"{tag}{n}" for n in range(40)]}, additionalProperties=False)
    return _held("a schema of its own", guided_json=schema)


def tools(target: Target, chance: Random) -> Attempt:
    count = chance.choice((1, 16, 128, 129))
    name, schema = _schema(chance)
    offered = [
        {
            "type": "function",
            "function": {
                "name": f"tool{n}",
                "description": "d" * chance.choice((10, 500)),
                "parameters": schema if isinstance(schema, dict) else {},
            },
        }
        for n in range(count)
    ]
    choice = chance.choice(
        ("auto", "required", {"type": "function", "function": {"name": "tool0"}})
    )
    return _held(f"{count} tools of {name}", tools=offered, tool_choice=choice)


def formats_at_once(target: Target, chance: Random) -> Attempt:
    """Several formats of one answer, which contradict each other."""
    return _held(
        "formats that contradict",
        guided_json=json.dumps({"type": "object"}),
        guided_regex="a+",
        grammar='root ::= "x"',
        response_format={"type": "json_object"},
    )
