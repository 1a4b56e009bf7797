"""The types of values that a schema names, in the spellings of several dialects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_OTHER_NAMES: Mapping[str, str] = {
    "bool": "boolean",
    "dict": "object",
    "double": "number",
    "float": "number",
    "int": "integer",
    "list": "array",
    "none": "null",
    "str": "string",
    "tuple": "array",
}
"""Python's names, which people and models write."""
_ANYTHING = {"any", "type_unspecified", "unknown"}

ALL_TYPES = frozenset({"array", "boolean", "integer", "null", "number", "object", "string"})


def types_of(schema: Mapping[str, Any]) -> tuple[frozenset[str] | None, tuple[str, ...]]:
    """Return the types that a schema names, None if it allows all; and the names of unknown ones.

    OpenAPI's `nullable` counts.
    """
    named = schema.get("type")
    if named is None:
        return None, ()
    listed = named if isinstance(named, list) else [named]
    types, unknown = set(), []
    for each in listed:
        name = each.lower() if isinstance(each, str) else ""
        name = _OTHER_NAMES.get(name, name)
        if name in _ANYTHING:
            return None, ()
        if name in ALL_TYPES:
            types.add(name)
        else:  # draft 3 had schemas among the types
            unknown.append(each if isinstance(each, str) else "that is no name")
    if unknown or not types:
        return None, tuple(unknown or ["that is empty"])
    if schema.get("nullable") is True:
        types.add("null")
    return frozenset(types), ()


def type_of(value: Any) -> str:
    """Return the name of a value's narrowest type."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "integer" if value.is_integer() else "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"
