"""Whether an answer matches a schema as it was sent, by the jsonschema library.

Dialects that the library does not know are rewritten first, by rules of their own: the translation
under test has no part in it.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from typing import Any

from jsonschema import Draft4Validator, Draft7Validator, Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT4, DRAFT7, DRAFT202012

_NAMES = {
    "str": "string",
    "int": "integer",
    "float": "number",
    "dict": "object",
    "list": "array",
    "bool": "boolean",
}
_VALUES = {"const", "enum", "default", "example", "examples"}


def matches(schema: Any, answer: Any) -> bool:
    """Tell whether an answer matches the schema."""
    plain = _plain(schema)
    draft = str(schema.get("$schema", "")) if isinstance(schema, Mapping) else ""
    validator, specification = Draft202012Validator, DRAFT202012
    if "draft-04" in draft or _has_flags(schema):
        validator, specification = Draft4Validator, DRAFT4
    elif "draft-07" in draft or "draft-06" in draft or _has_tuples(schema):
        validator, specification = Draft7Validator, DRAFT7
    if isinstance(plain, dict):
        plain.pop("$schema", None)
    resource = specification.create_resource(plain)
    registry: Any = Registry().with_resource("", resource)
    return bool(validator(plain, registry=registry).is_valid(answer))


def _is_pythons(pattern: str) -> bool:
    """Tell whether Python reads a pattern as JavaScript does."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            re.compile(pattern)
    except (re.error, FutureWarning):
        return False
    return True


def _has_tuples(schema: Any) -> bool:
    """Tell whether lists have a list of `items`, as only drafts before 2020-12 have them."""
    if isinstance(schema, Mapping):
        return isinstance(schema.get("items"), list) or any(map(_has_tuples, schema.values()))
    return isinstance(schema, list) and any(map(_has_tuples, schema))


def _has_flags(schema: Any) -> bool:
    """Tell whether exclusive bounds are flags, as only draft 4 has them."""
    if isinstance(schema, Mapping):
        return any(
            isinstance(schema.get(name), bool) for name in ("exclusiveMinimum", "exclusiveMaximum")
        ) or any(map(_has_flags, schema.values()))
    return isinstance(schema, list) and any(map(_has_flags, schema))


def _plain(schema: Any) -> Any:
    """Return a schema in the standard's words: Google's and OpenAPI's are replaced, and a keyword
    that is null is left out."""
    if isinstance(schema, list):
        return list(map(_plain, schema))
    if not isinstance(schema, Mapping):
        return schema
    plain = {
        name: each if name in _VALUES else _plain(each)
        for name, each in schema.items()
        if each is not None or name == "const"
    }
    if isinstance(named := plain.get("type"), str):
        word = named.lower()
        plain["type"] = _NAMES.get(word, word)
        if word in ("any", "type_unspecified"):
            del plain["type"]
    for name in ("minItems", "maxItems", "minLength", "maxLength"):
        if isinstance(plain.get(name), str) and plain[name].isdecimal():
            plain[name] = int(plain[name])
    if isinstance(plain.get("pattern"), str) and not _is_pythons(plain["pattern"]):
        del plain["pattern"]
    if plain.pop("nullable", None) is True:
        return {"anyOf": [plain, {"type": "null"}]}
    return plain
