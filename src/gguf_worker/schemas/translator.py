"""Translates a schema as callers write them into one that an answer can be held to.

The result is of draft 2020-12, without annotations, and its references are all within it. Objects
that list their properties have no others, unless the schema says so: a model that is free to add
keys does so without end.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from gguf_worker.schemas.arrays import array_keywords
from gguf_worker.schemas.evaluated_keys import EvaluatedKeys, evaluated_keys
from gguf_worker.schemas.keywords import Keywords, is_anything
from gguf_worker.schemas.objects import Closing, object_keywords
from gguf_worker.schemas.overlap import all_disjoint
from gguf_worker.schemas.references import References, Target
from gguf_worker.schemas.relaxations import Relaxations, SchemaPath
from gguf_worker.schemas.scalars import number_keywords, text_keywords
from gguf_worker.schemas.types import ALL_TYPES, type_of, types_of
from gguf_worker.schemas.work import Work

_MOST_STEPS = 24
"""Steps of a path within one definition: what is deeper becomes a definition of its own, since the
engine reads no schema as deep as a body may be."""
_MOST_ALIASES = 16

_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
_OF_OBJECTS = (
    "properties",
    "required",
    "patternProperties",
    "additionalProperties",
    "propertyNames",
    "dependentRequired",
    "dependencies",
    "minProperties",
    "maxProperties",
)
_OF_TYPES = {
    "object": _OF_OBJECTS,
    "array": ("items", "prefixItems", "minItems", "maxItems", "uniqueItems", "contains"),
    "string": ("pattern", "minLength", "maxLength"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}
"""Keywords that tell what a schema without a type is about."""

Translated = dict[str, Any] | bool


@dataclass(frozen=True, slots=True)
class TranslatedSchema:
    """A schema that an answer can be held to, and what of the caller's it is not held to."""

    schema: Translated
    relaxed: Relaxations

    @property
    def text(self) -> str:
        """The schema as JSON."""
        return json.dumps(self.schema, ensure_ascii=False)


def translated(schema: Any) -> TranslatedSchema:
    """Return a caller's schema, translated."""
    return _translated(schema, Work())


def translated_arguments(tools: Iterable[Any]) -> list[TranslatedSchema]:
    """Return the schemas of tools' arguments, each made of the tool's parameters.

    Arguments are an object. None: the tool takes none. The work for all is bounded together.
    """
    work = Work()
    return [_arguments(parameters, work) for parameters in tools]


def _translated(schema: Any, work: Work) -> TranslatedSchema:
    translator = _Translator(schema, work)
    return TranslatedSchema(translator.whole(), translator.relaxed)


def _arguments(parameters: Any, work: Work) -> TranslatedSchema:
    closed = {"type": "object", "additionalProperties": False}
    result = _translated(closed if parameters is None else parameters, work)
    whole = result.schema if isinstance(result.schema, dict) else {}
    if not _may_be_object(result.schema, whole.get("$defs", {}), _MOST_ALIASES):
        result.relaxed.add("a type other than that of an object", ())
        whole = {}
    return TranslatedSchema(whole | {"type": "object"}, result.relaxed)


def _may_be_object(schema: Any, definitions: Mapping[str, Any], levels: int) -> bool:
    """Tell whether a translated schema may describe an object; of `enum` its type tells."""
    if not isinstance(schema, dict) or not levels:
        return schema is not False
    types, name = schema.get("type", "object"), schema.get("$ref", "#").rpartition("/")[2]
    choices, parts = schema.get("anyOf", [True]), schema.get("allOf", [])
    return (
        "object" in ([types] if isinstance(types, str) else types)
        and _may_be_object(definitions.get(name), definitions, levels - 1)
        and any(_may_be_object(each, definitions, levels - 1) for each in choices)
        and all(_may_be_object(each, definitions, levels - 1) for each in parts)
    )


class _Translator:
    def __init__(self, document: Any, work: Work) -> None:
        self.relaxed = Relaxations()
        self._document = document
        self._references = References(document)
        self._names: dict[tuple[SchemaPath, Closing], str] = {}
        self._taken: set[str] = set()
        self._waiting: deque[tuple[str, Target, Closing]] = deque()
        self._work = work
        self._base = 0
        """Steps of the path to the definition that is being translated."""

    def whole(self) -> Translated:
        root = self._part(self._document, (), Closing.CLOSED)
        definitions: dict[str, Translated] = {}
        while self._waiting:
            name, target, closing = self._waiting.popleft()
            self._base = len(target.path)
            definitions[name] = self._part(target.schema, target.path, closing)
        if definitions and isinstance(root, dict):
            return {**root, "$defs": definitions}
        return root

    def _closed(self, schema: Any, path: SchemaPath) -> Translated:
        return self._part(schema, path, Closing.CLOSED)

    def _referred(self, schema: Any, path: SchemaPath) -> Translated:
        return {"$ref": self._defined(Target(path, schema), Closing.CLOSED)}

    def _part(self, schema: Any, path: SchemaPath, closing: Closing) -> Translated:
        if isinstance(schema, bool) or schema is None:
            return schema is not False
        if not isinstance(schema, Mapping):
            self.relaxed.add("what is no schema", path)
            return True
        if len(path) - self._base > _MOST_STEPS:
            return {"$ref": self._defined(Target(path, schema), closing)}
        if not self._work.allows_part():
            self.relaxed.add("parts of a schema that is too large", ())
            return True
        sent = Keywords(schema, path, self.relaxed)
        return _Part(self, sent, closing).translated()

    def _defined(self, target: Target, closing: Closing) -> str:
        """Return the reference to the definition of a part, which is translated later."""
        if not target.path and closing is Closing.CLOSED:
            return "#"
        key = (target.path, closing)
        if key not in self._names:
            last = re.sub(r"[^A-Za-z0-9_]", "_", (target.path or ("whole",))[-1])[:40]
            name, number = last, 1
            while name in self._taken:
                number += 1
                name = f"{last}-{number}"
            self._taken.add(name)
            self._names[key] = name
            self._waiting.append((name, target, closing))
        return f"#/$defs/{self._names[key]}"

    def _reached(self, reference: Any, sent: Keywords) -> Target | None:
        """Return what a reference leads to in the end, or None if that is nothing."""
        for _ in range(_MOST_ALIASES):
            target = self._references.target(reference) if isinstance(reference, str) else None
            if target is None:
                named = repr(reference) if isinstance(reference, str) else "that is no text"
                sent.relax(f"`$ref` {named}, which is not in the schema")
                return None
            only = target.schema if isinstance(target.schema, Mapping) else {}
            reference = only.get("$ref")
            if reference is None or not is_anything(
                {name: each for name, each in only.items() if name != "$ref"}
            ):
                return target
        sent.relax("a `$ref` that leads to itself")
        return None


class _Part:
    """One part of a schema under translation."""

    def __init__(self, owner: _Translator, sent: Keywords, closing: Closing) -> None:
        self._owner = owner
        self._sent = sent
        self._closing = closing
        self._result: dict[str, Any] = {}
        self._also: list[Translated] = []
        self._combined = self._count_sources() > 1
        self._inner = self._inner_closing()

    def translated(self) -> Translated:
        sent, result = self._sent, self._result
        if "not" in sent:
            if sent.sent["not"] is not False and is_anything(sent.sent["not"]):
                return False
            if sent.sent["not"] is not False:
                sent.relax("`not`")
        types = self._values(self._types())
        if types != ALL_TYPES:
            result["type"] = _named(types)
        if "string" in types:
            self._add(text_keywords(sent))
        if "number" in types or "integer" in types:
            self._add(number_keywords(sent, integer="number" not in types))
        if "array" in types:
            whole = self._inner is Closing.CLOSED
            self._add(array_keywords(sent, self._owner._closed, whole=whole))
        if "object" in types:
            self._resolve_names()
            parts = self._owner._closed, self._owner._referred
            self._add(object_keywords(sent, *parts, self._inner))
        if not self._combine():
            return False
        return self._nullable(self._closed_whole(self._ordered()))

    def _add(self, keywords: dict[str, Any]) -> None:
        self._also += keywords.pop("allOf", [])
        self._result |= keywords

    def _resolve_names(self) -> None:
        names = self._sent.sent.get("propertyNames")
        if isinstance(names, Mapping) and "$ref" in names:
            target = self._owner._reached(names["$ref"], self._sent)
            self._sent.sent["propertyNames"] = target.schema if target else True

    def _types(self) -> frozenset[str]:
        """Return the types that a value may have; a schema without one may tell by its keywords."""
        types, unknown = types_of(self._sent.sent)
        for name in unknown:
            self._sent.relax(f"`type` {name!r}")
        if types is not None:
            return types - {"null"} if self._wraps_null else types
        told = [name for name, keys in _OF_TYPES.items() if any(key in self._sent for key in keys)]
        sure = self._closing is Closing.CLOSED and len(told) == 1 and not self._has_values
        nullable = self._sent.sent.get("nullable") is True and not self._wraps_null
        return frozenset({*told, *(("null",) if nullable else ())}) if sure else ALL_TYPES

    @property
    def _has_values(self) -> bool:
        return "const" in self._sent or "enum" in self._sent

    @property
    def _wraps_null(self) -> bool:
        """Tells whether null has to be an alternative beside all of the rest."""
        sources = (*_REFERENCES, "allOf", "anyOf", "oneOf", "const", "not")
        return self._sent.sent.get("nullable") is True and (
            any(name in self._sent for name in sources)
            or ("type" not in self._sent and "enum" not in self._sent)
        )

    def _values(self, types: frozenset[str]) -> frozenset[str]:
        """Add the values that are listed; returns the types that are left."""
        sent = self._sent
        if not self._has_values:
            return types
        listed = [sent.sent["const"]] if "const" in sent else list(sent.listed("enum"))
        if not listed:
            sent.relax("an empty `enum`")
            return types
        fitting = [each for each in listed if _fits(each, types)]
        if not fitting:
            sent.relax("a `type` that no value of its `enum` or `const` has")
            fitting = listed
        if "null" in types and sent.sent.get("nullable") is True and None not in fitting:
            fitting.append(None)
        self._result["enum"] = fitting
        return frozenset(map(type_of, fitting))

    @property
    def _has_conditions(self) -> bool:
        sent = self._sent.sent
        return "if" in sent and not all(is_anything(sent.get(name)) for name in ("then", "else"))

    @property
    def _dependent(self) -> list[Any]:
        found = self._sent.sent.get("dependentSchemas")
        return list(found.values()) if isinstance(found, Mapping) else []

    def _count_sources(self) -> int:
        """Return the number of places that the keys of an object come from."""
        sent = self._sent.sent
        return (
            any(name in sent for name in _REFERENCES)
            + len(sent["allOf"] if isinstance(sent.get("allOf"), list) else ())
            + ("anyOf" in sent)
            + ("oneOf" in sent)
            + any(name in sent for name in _OF_OBJECTS)
            + self._has_conditions
            + any(not is_anything(each) for each in self._dependent)
        )

    def _inner_closing(self) -> Closing:
        if not self._combined or self._closing is Closing.LOOSE:
            return self._closing
        return Closing.LOOSE if self._keys.conflict else Closing.OPEN

    @cached_property
    def _keys(self) -> EvaluatedKeys:
        keys = evaluated_keys(
            self._sent.sent, self._owner._references, self._owner._work.looks_for_one
        )
        self._owner._work.looks -= keys.visited
        return keys

    def _combine(self) -> bool:
        """Add what other parts say; returns False if nothing matches them all."""
        sent = self._sent
        for name in _REFERENCES:
            if name in sent and not self._refer(sent.sent[name]):
                return False
        for number, each in enumerate(sent.listed("allOf")):
            self._also.append(self._inside(each, "allOf", number))
        if self._has_conditions:
            sent.relax("`if`, `then` and `else`")
        choices = [each for name in ("anyOf", "oneOf") if (each := self._choice(name)) is not True]
        if choices:
            self._result["anyOf"] = choices[0]
        self._also += [{"anyOf": each} for each in choices[1:]]
        self._also = [each for each in self._also if each is not True]
        if False in self._also or [] in choices:
            return False
        if self._also:
            self._result["allOf"] = self._also
        return True

    def _inside(self, schema: Any, name: str, number: int) -> Translated:
        return self._owner._part(schema, self._sent.below(name, str(number)), self._inner)

    def _refer(self, reference: Any) -> bool:
        target = self._owner._reached(reference, self._sent)
        if target is None or target.schema is True:
            return True
        self._result["$ref"] = self._owner._defined(target, self._inner)
        return target.schema is not False

    def _choice(self, name: str) -> list[Translated] | bool:
        """Return the branches of `anyOf` or `oneOf`; True if there is no such choice."""
        sent = self._sent
        if name not in sent:
            return True
        branches = sent.listed(name)
        if not branches:
            sent.relax(f"an empty `{name}`")
            return True
        closed = self._inner is Closing.CLOSED
        if name == "oneOf" and not (
            self._owner._work.allows_comparisons(len(branches))
            and all_disjoint(branches, self._owner._references, closed=closed)
        ):
            sent.relax("`oneOf` of which several may match, but to `anyOf`")
        parts = [self._inside(each, name, number) for number, each in enumerate(branches)]
        return True if True in parts else [each for each in parts if each is not False]

    def _ordered(self) -> dict[str, Any]:
        """Return the result in the caller's order, which is that of an answer's keys."""
        order = {name: at for at, name in enumerate(self._sent.sent)}
        order.setdefault("anyOf", order.get("oneOf", len(order)))
        return {
            name: self._result[name]
            for name in sorted(self._result, key=lambda name: order.get(name, len(order)))
        }

    def _closed_whole(self, result: dict[str, Any]) -> dict[str, Any]:
        """Close an object whose keys come from several parts, all together."""
        rest = self._sent.sent.get("unevaluatedProperties")
        if not self._combined:
            if rest is not None and self._closing is not Closing.CLOSED and not is_anything(rest):
                self._sent.relax("`unevaluatedProperties` of a part")
            return result
        if not is_anything(rest) and (rest is not False or self._closing is not Closing.CLOSED):
            self._sent.relax("`unevaluatedProperties`")
        keys = self._keys
        if rest is False and keys.branches:
            self._sent.relax("`unevaluatedProperties`, but for the keys of all branches")
        is_open = keys.open or (rest is not None and rest is not False)
        listed = keys.names | keys.patterns
        if self._closing is not Closing.CLOSED or is_open or keys.closed or not listed:
            return result
        if not self._owner._work.allows_copies(sum(map(len, listed))):
            return result
        return {"allOf": [result, _closing(keys)]}

    def _nullable(self, result: dict[str, Any]) -> Translated:
        return {"anyOf": [result, {"type": "null"}]} if self._wraps_null else result or True


def _closing(keys: EvaluatedKeys) -> dict[str, Any]:
    return {
        "properties": dict.fromkeys(keys.names, True),
        **({"patternProperties": dict.fromkeys(keys.patterns, True)} if keys.patterns else {}),
        "additionalProperties": False,
    }


def _named(types: frozenset[str]) -> str | list[str]:
    names = sorted(types - {"integer"} if "number" in types else types)
    return names[0] if len(names) == 1 else names


def _fits(value: Any, types: frozenset[str]) -> bool:
    name = type_of(value)
    return name in types or (name == "integer" and "number" in types)
