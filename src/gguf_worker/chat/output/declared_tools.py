"""The tools that an answer may call, and the values of their arguments.

Some models write arguments as bare texts: only the parameter's schema says whether `5` is a number
or a text. The module depends on no model's format.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

_MAX_REFERENCES = 16
_MAX_PARTS = 256

_WORDS = {"True": True, "False": False, "None": None}
"""Python's spelling of values, used by models whose templates print Python values."""


class DeclaredTools:
    """The tools of a request by their names, with the schemas of their parameters.

    `tools` are as OpenAI writes them.
    """

    def __init__(self, tools: Sequence[Mapping[str, Any]]) -> None:
        functions = [tool.get("function", tool) for tool in tools]
        self._schemas = {
            function["name"]: function.get("parameters") or {} for function in functions
        }

    def __bool__(self) -> bool:
        return bool(self._schemas)

    def __contains__(self, name: object) -> bool:
        return name in self._schemas

    def argument(self, tool: str, parameter: str, text: str) -> Any:
        """Return `text` as a value of a type that the parameter's schema allows.

        It stays a text if it is no JSON of such a type. A parameter whose types are not known takes
        any JSON value.
        """
        schema = _mapping(self._schemas.get(tool))
        properties = _mapping(resolved_schema(schema, schema).get("properties"))
        types = schema_types(_mapping(properties.get(parameter)), schema)
        if types == {"string"}:
            return text
        try:
            word = text.strip()
            value = _WORDS[word] if word in _WORDS else json.loads(word, parse_constant=_no_number)
        except (ValueError, RecursionError):
            return text
        return value if not types or types & _type_names(value) else text


def schema_types(schema: Mapping[str, Any], root: Mapping[str, Any]) -> set[str]:
    """Return the names of the types that values of `schema` may have; none if unknown."""
    types: set[str] = set()
    left = [schema]
    for _ in range(_MAX_PARTS):  # bounded: the parts can be many, and refer to one another
        if not left:
            break
        part = resolved_schema(left.pop(), root)
        named = part.get("type")
        if isinstance(named, str):
            types.add(named)
        elif isinstance(named, list):
            types.update(name for name in named if isinstance(name, str))
        elif "const" in part:
            types |= _type_names(part["const"])
        elif isinstance(part.get("enum"), list):
            types.update(*map(_type_names, part["enum"]))
        else:
            for key in ("anyOf", "oneOf", "allOf"):
                parts = part.get(key)
                left += map(_mapping, parts if isinstance(parts, list) else ())
    return types


def _no_number(word: str) -> Any:
    raise ValueError(f"{word} is not JSON")


def _type_names(value: Any) -> set[str]:
    """Return the names of the schema types that fit a value."""
    if value is None:
        return {"null"}
    if isinstance(value, bool):
        return {"boolean"}
    if isinstance(value, int):
        return {"integer", "number"}
    if isinstance(value, float):
        return {"number", "integer"} if value.is_integer() else {"number"}
    if isinstance(value, str):
        return {"string"}
    return {"array"} if isinstance(value, list) else {"object"}


def resolved_schema(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the schema that references within `root` lead to; {} if one leads nowhere."""
    for _ in range(_MAX_REFERENCES):
        reference = schema.get("$ref")
        if not isinstance(reference, str):
            return schema
        schema = root
        for step in reference.removeprefix("#").split("/")[1:]:
            schema = _mapping(schema.get(step.replace("~1", "/").replace("~0", "~")))
    return {}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
