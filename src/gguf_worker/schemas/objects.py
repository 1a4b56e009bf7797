"""Keywords about objects."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import Any

from gguf_worker.schemas.arrays import TranslatePart
from gguf_worker.schemas.keywords import Keywords, is_anything
from gguf_worker.schemas.patterns import rewritten

_MOST_DEPENDENCIES = 4
"""Each doubles the ways to read an object."""


class Closing(Enum):
    """What becomes of an object that does not say whether it may have more keys than it lists."""

    CLOSED = auto()
    OPEN = auto()
    """It stays open: it is a part of a schema that is closed as a whole."""
    LOOSE = auto()
    """It is opened even if it says that it is closed: the other parts of the whole could not be
    matched otherwise."""


def object_keywords(
    sent: Keywords, part: TranslatePart, reference: TranslatePart, closing: Closing
) -> dict[str, Any]:
    """Return the keywords about objects; what needs parts of its own is in `allOf`.

    `reference` returns a reference to what is at a path below.
    """
    return _Object(sent, part, reference, closing).keywords()


class _Object:
    def __init__(
        self, sent: Keywords, part: TranslatePart, reference: TranslatePart, closing: Closing
    ) -> None:
        self._sent = sent
        self._part = part
        self._reference = reference
        self._closing = closing
        self._properties = {
            name: part(each, sent.below("properties", name)) for name, each in _properties(sent)
        }
        self._patterns = _patterns(sent, part)
        self._required = _required(sent)
        self._also: list[dict[str, Any]] = []
        self._additional: Any = None

    def keywords(self) -> dict[str, Any]:
        self._close()
        self._name_keys()
        counts = self._counts()
        self._depend()
        result: dict[str, Any] = {}
        if self._properties:
            result["properties"] = self._properties
        if self._patterns:
            result["patternProperties"] = self._patterns
        if self._additional is not None and (self._additional is not True or self._properties):
            result["additionalProperties"] = self._additional
        if self._required:
            result["required"] = self._required
        if self._also:
            result["allOf"] = self._also
        return result | counts

    def _close(self) -> None:
        """Decide on the keys that are not listed, and on those that are required all the same."""
        sent = self._sent
        additional = sent.sent.get("additionalProperties")
        key = "additionalProperties"
        if additional is None and self._closing is Closing.CLOSED:
            key = "unevaluatedProperties"
            additional = sent.sent.get(key)
        if additional is None:
            if self._closing is Closing.CLOSED and ("properties" in sent or self._patterns):
                self._additional = False
                missing = [name for name in self._required if name not in self._properties]
                if not self._patterns:
                    self._properties |= dict.fromkeys(missing, True)
        elif additional is False and self._closing is Closing.LOOSE:
            sent.relax("`additionalProperties: false` of a part, but to that of the whole")
        else:
            self._additional = True if is_anything(additional) else self._nested(additional, key)
            if self._additional is False and not self._patterns:
                self._allow_only_listed()

    def _nested(self, schema: Any, *steps: str) -> Any:
        return self._part(schema, self._sent.below(*steps))

    def _allow_only_listed(self) -> None:
        for name in [each for each in self._required if each not in self._properties]:
            self._sent.relax(f"`required` {name!r}, which is not among the `properties`")
            self._required.remove(name)

    def _name_keys(self) -> None:
        """Turn `propertyNames` into properties or patterns of keys."""
        names = self._sent.sent.get("propertyNames")
        if is_anything(names) or (
            isinstance(names, Mapping)
            and names.get("type") == "string"
            and is_anything({name: each for name, each in names.items() if name != "type"})
        ):
            return
        listed = names.get("enum") if isinstance(names, Mapping) else None
        if isinstance(names, Mapping) and isinstance(names.get("const"), str):
            listed = [names["const"]]
        if isinstance(listed, list) and all(isinstance(each, str) for each in listed):
            rest = self._copied_rest()
            others = [name for name in self._properties if name not in listed]
            if rest is not False:
                self._properties = dict.fromkeys(listed, rest) | self._properties
            self._properties |= dict.fromkeys(others, False)
            self._patterns, self._additional = {}, False
            self._allow_only_listed()
        elif (pattern := _key_pattern(names)) and not self._properties and not self._patterns:
            self._patterns = {pattern: True if self._additional is None else self._additional}
            self._additional = False
        elif self._additional is not False or self._patterns:
            self._sent.relax("`propertyNames`")

    def _copied_rest(self) -> Any:
        """Return what the keys that are not listed have for values, fit to be copied."""
        rest = self._sent.sent.get("additionalProperties")
        if isinstance(rest, Mapping) and len(rest) > 1 and isinstance(self._additional, dict):
            return self._reference(rest, self._sent.below("additionalProperties"))
        return True if self._additional is None else self._additional

    def _counts(self) -> dict[str, int]:
        """Return the limits of the number of keys that can be kept."""
        counts = self._sent.bounds("minProperties", "maxProperties")
        closed = self._additional is False and not self._patterns
        if counts.get("minProperties", 0) <= len(self._required):
            counts.pop("minProperties", None)
        if closed and counts.get("maxProperties", 0) >= len(self._properties):
            counts.pop("maxProperties", None)
        optional = set(self._properties) - set(self._required)
        if optional and not (closed and set(counts.values()) <= {0, 1}):
            for name in counts:
                self._sent.relax(f"`{name}`")
            return {}
        if counts.get("minProperties", 0) > 1:
            self._sent.relax("`minProperties`, but to as many keys, which may repeat", grave=False)
        return counts

    def _depend(self) -> None:
        """Write the keys that need others as alternatives."""
        found = dict(self._sent.mapping("dependentRequired"))
        for name, each in self._sent.mapping("dependencies").items():
            found[name] = [each] if isinstance(each, str) else each
        if any(not is_anything(each) for each in self._sent.mapping("dependentSchemas").values()):
            self._sent.relax("`dependentSchemas`")
        for name, each in found.items():
            if not isinstance(each, list):
                if not is_anything(each):
                    self._sent.relax("`dependencies` that are schemas")
                continue
            needed = [key for key in each if isinstance(key, str) and key not in self._required]
            if needed and len(self._also) < _MOST_DEPENDENCIES:
                without = {"properties": {name: False}}
                self._also.append({"anyOf": [without, {"required": needed}]})
            elif needed:
                self._sent.relax("all of the keys that need others")


def _properties(sent: Keywords) -> list[tuple[str, Any]]:
    """Return the properties, in Google's `propertyOrdering` if there is one."""
    properties = sent.mapping("properties")
    ordering = sent.sent.get("propertyOrdering")
    first = (
        [each for each in ordering if isinstance(each, str)] if isinstance(ordering, list) else []
    )
    names = dict.fromkeys([*(name for name in first if name in properties), *properties])
    return [(name, properties[name]) for name in names]


def _required(sent: Keywords) -> list[str]:
    """Return the required keys; draft 3 says it within a property."""
    listed = sent.sent.get("required")
    if not isinstance(listed, bool | list | None):
        sent.relax("`required`, which is no list")
    names = [each for each in listed if isinstance(each, str)] if isinstance(listed, list) else []
    names += [
        name
        for name, each in sent.mapping("properties").items()
        if isinstance(each, Mapping) and each.get("required") is True
    ]
    return list(dict.fromkeys(names))


def _patterns(sent: Keywords, part: TranslatePart) -> dict[str, Any]:
    """Return `patternProperties`; several of them become one unless they exclude each other."""
    found: dict[str, Any] = {}
    for pattern, each in sent.mapping("patternProperties").items():
        new = rewritten(pattern)
        if new.lost or new.also:
            sent.relax("the whole of a pattern", "patternProperties", pattern)
        written = new.pattern if new.pattern is not None else "^"
        found[written] = part(each, sent.below("patternProperties", pattern))
    if len(found) <= 1 or _exclusive(list(found)):
        return found
    sent.relax("all of the `patternProperties`, but to one of them")
    return {"|".join(f"(?:{each})" for each in found): {"anyOf": list(found.values())}}


def _exclusive(patterns: list[str]) -> bool:
    """Tell whether the patterns begin with different letters, so that no key matches two."""
    begins = {each[1] for each in patterns if each[0] == "^" and each[1:2].isalnum()}
    optional = any(each[2:3] in ("*", "?", "{", "|") or "|" in each for each in patterns)
    return len(begins) == len(patterns) and not optional


def _key_pattern(names: Any) -> str | None:
    """Return the pattern that holds keys to `propertyNames`, or None if none does."""
    if not isinstance(names, Mapping):
        return None
    said = {
        name
        for name, each in names.items()
        if name in ("pattern", "minLength", "maxLength") and each is not None
    }
    known = {"type", "title", "description", "$schema", *said}
    if not said or not known >= names.keys():
        return None
    if said == {"pattern"} and isinstance(names["pattern"], str):
        new = rewritten(names["pattern"])
        return None if new.lost or new.also else new.pattern
    least, most = names.get("minLength", 0), names.get("maxLength", "")
    if "pattern" in said or not all(isinstance(each, int) for each in (least, most or 0)):
        return None
    return f"^(?s:.{{{least},{most}}})$" if least != most or least else None
