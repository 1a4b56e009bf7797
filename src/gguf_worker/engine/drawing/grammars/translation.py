"""Translates grammars to llguidance's format: JSON schemas, regular expressions, lark and GBNF.

Grammars come from strangers, so those that would cost too much to compile are refused here.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from decimal import Decimal
from itertools import islice
from typing import Any

import msgspec

from gguf_worker.engine.drawing.grammars.constraint import in_short
from gguf_worker.generation import JSON_STYLE, Grammar

_MOST_MULTIPLE = 100_000
"""Limit of a `multipleOf`'s digits, read as a number: it becomes an automaton of as many states,
and a million of them takes 7 seconds and 400 MB."""
_MOST_SCHEMAS = 128
"""Schemas in one grammar that are looked at to find the one at fault."""
_EXCERPT = re.compile(r"\n +\d+ \| ")
"""Begins llguidance's excerpt of a grammar, which the caller may never have seen."""
_EMBEDDED_SCHEMA = re.compile(r"%json\s*")

_STRICT: Any = {"lenient": False}
"""Makes an unsupported keyword an error, even if the schema allows it to be ignored."""
_NAMES = {"json_schema": "JSON schema", "regex": "regular expression", "lark": "grammar"}


class GrammarRefused(Exception):
    """A grammar that cannot be used; the message is for the caller. `inner`: its inner one is at
    fault."""

    def __init__(self, message: str, *, inner: bool = False) -> None:
        super().__init__(message)
        self.inner = inner


def as_llguidance(grammar: Grammar) -> str:
    """Return a grammar and its inner one in llguidance's format; raises GrammarRefused."""
    named = {} if grammar.inner is None else {"inner": grammar.inner}
    grammars = [_entry(grammar), *({"name": name} | _entry(each) for name, each in named.items())]
    return msgspec.json.encode({"grammars": grammars}).decode()


def _entry(grammar: Grammar) -> dict[str, Any]:
    """Return a grammar as an entry of llguidance's list of grammars."""
    from llguidance import regex_to_lark

    match grammar.kind:
        case "json_schema":
            return {"json_schema": _schema(grammar)}
        case "regex":
            # \\d is what JSON and most people call a digit, not every digit of Unicode.
            lark = f"start: /{regex_to_lark(grammar.text, 'd')}/"
        case "lark":
            lark = _lark(grammar)
        case other:
            raise refused(grammar, f"{other!r} is no kind of grammar")
    return {"lark_grammar": lark}


def _lark(grammar: Grammar) -> str:
    """Return a grammar in lark, which may be llama.cpp's GBNF.

    The rules of GBNF have `::=`, which means nothing in lark.
    """
    from llguidance.gbnf_to_lark import GbnfToLarkError, any_to_lark

    if "::=" not in grammar.text:
        for schema, _ in _schemas_in(grammar.text):
            _check_multiples(grammar, schema)
        return grammar.text
    try:
        return str(any_to_lark(grammar.text))
    except (GbnfToLarkError, ValueError, RecursionError) as error:
        raise refused(grammar, str(error)) from error


def embedded_schemas(grammar: Grammar) -> Iterator[Grammar]:
    """Yield the JSON schemas in a grammar in lark, each as a grammar."""
    if grammar.kind == "lark":
        for _, text in islice(_schemas_in(grammar.text), _MOST_SCHEMAS):
            yield Grammar("json_schema", text)


def _schemas_in(lark: str) -> Iterator[tuple[Any, str]]:
    """Yield the JSON schemas in a lark grammar, parsed and as texts; those that cannot be parsed
    are left to llguidance."""
    decode = json.JSONDecoder(parse_int=float).raw_decode  # int() refuses thousands of digits
    at = 0
    while (found := _EMBEDDED_SCHEMA.search(lark, at)) is not None:
        at = found.end()
        with contextlib.suppress(ValueError, RecursionError):
            schema, at = decode(lark, at)
            yield schema, lark[found.end() : at]


def _schema(grammar: Grammar) -> msgspec.Raw:
    from llguidance import LLMatcher

    style: Any = JSON_STYLE
    anything = grammar.text.strip() == "true"  # a valid schema that llguidance does not take
    if not anything and not grammar.text.lstrip().startswith("{"):
        raise refused(grammar, "it is no JSON object")
    try:
        text = LLMatcher.grammar_from_json_schema(
            "{}" if anything else grammar.text, defaults=style, overrides=_STRICT
        )
    except ValueError as error:
        raise refused(grammar, str(error)) from error
    # Parsed after llguidance, which bounds the depth.
    _check_multiples(grammar, msgspec.json.decode(grammar.text))
    whole = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    (entry,) = msgspec.json.decode(whole["grammars"], type=list[dict[str, msgspec.Raw]])
    return entry["json_schema"]


def _check_multiples(grammar: Grammar, schema: Any) -> None:
    for multiple in _values_of("multipleOf", schema):
        if _digits(multiple) >= _MOST_MULTIPLE:
            raise refused(grammar, f"multipleOf {multiple} has too many digits")


def _values_of(key: str, document: Any) -> Iterator[Any]:
    """Yield each value under `key`, at any depth."""
    left = [document]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            if key in value:
                yield value[key]
            left += value.values()
        elif isinstance(value, list):
            left += value


def _digits(number: Any) -> int:
    """Return the digits of a number, without the zeros around them, as a whole number.

    Returns 0 for a value that is no number.
    """
    if isinstance(number, bool) or not isinstance(number, int | float):
        return 0
    digits = Decimal(str(number)).normalize().as_tuple().digits
    return int("".join(map(str, digits)))


def refused(grammar: Grammar, reason: str, *, inner: bool = False) -> GrammarRefused:
    """Return the error that says which kind of grammar cannot be used, and why."""
    name = _NAMES.get(grammar.kind, "grammar")
    reason = in_short(_EXCERPT.split(reason)[0])
    return GrammarRefused(f"The {name} cannot be used: {reason}.", inner=inner)
