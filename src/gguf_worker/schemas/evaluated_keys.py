"""The keys of an object that the parts of a schema list together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from gguf_worker.schemas.keywords import is_anything
from gguf_worker.schemas.patterns import rewritten
from gguf_worker.schemas.references import References

_LISTS = ("allOf", "anyOf", "oneOf")
_SINGLE = ("then", "else")


@dataclass
class EvaluatedKeys:
    """Keys by name and by pattern. Insertion order is that of the schema."""

    names: dict[str, None] = field(default_factory=dict)
    patterns: dict[str, None] = field(default_factory=dict)
    open: bool = False
    """A part allows more keys than it lists."""
    branches: bool = False
    """Some keys are listed in one branch of several."""
    closed: bool = False
    """A part that has to match lists all of them, and allows no others."""
    visited: int = 0
    """Parts that were looked at; one with many keys counts as several."""
    conflict: bool = False
    """A part that has to match allows no other keys than its own, and another requires one."""


def evaluated_keys(schema: Mapping[str, Any], references: References, most: int) -> EvaluatedKeys:
    """Return the keys that `schema` and the parts that apply to the same object list.

    `most`: the parts that are looked at; with more the keys count as open.
    """
    return _Collector(references, most).collected(schema)


class _Collector:
    def __init__(self, references: References, most: int) -> None:
        self._references = references
        self._keys = EvaluatedKeys()
        self._most = most
        self._seen: set[tuple[str, ...]] = set()
        self._closed: list[set[str]] = []
        self._required: set[str] = set()

    def collected(self, schema: Mapping[str, Any]) -> EvaluatedKeys:
        waiting: list[tuple[Any, bool]] = [(schema, True)]
        while waiting:
            part, needed = waiting.pop()
            if not isinstance(part, Mapping):
                continue
            if self._keys.visited >= self._most:
                self._keys.open = True
                break
            self._note(part, needed)
            waiting += reversed(list(self._parts(part, needed)))
        keys = self._keys
        keys.conflict = not keys.patterns and any(
            not self._required <= listed for listed in self._closed
        )
        keys.closed = not keys.patterns and any(
            keys.names.keys() <= listed for listed in self._closed
        )
        return keys

    def _note(self, part: Mapping[str, Any], needed: bool) -> None:
        keys, properties = self._keys, part.get("properties")
        listed = dict.fromkeys(properties) if isinstance(properties, Mapping) else {}
        keys.visited += 1 + len(listed) // 10
        keys.names |= listed
        required = part.get("required")
        names = [each for each in _listed(required) if isinstance(each, str)]
        keys.names |= dict.fromkeys(names)
        patterns = part.get("patternProperties")
        for pattern in patterns if isinstance(patterns, Mapping) else ():
            if (written := rewritten(pattern).pattern) is None:
                keys.open = True
            else:
                keys.patterns[written] = None
        additional = part.get("additionalProperties")
        if additional is False:
            if needed:
                self._closed.append(set(listed))
        elif additional is not None or _opens(part.get("unevaluatedProperties")):
            keys.open = True
        if needed:
            self._required |= set(names)

    def _parts(self, part: Mapping[str, Any], needed: bool) -> Iterator[tuple[Any, bool]]:
        for name in part:
            inner = part[name]
            if name in ("$ref", "$dynamicRef", "$recursiveRef") and isinstance(inner, str):
                target = self._references.target(inner)
                if target is not None and target.path not in self._seen:
                    self._seen.add(target.path)
                    yield target.schema, needed
            elif name in _LISTS and isinstance(inner, list):
                self._keys.branches |= name != "allOf"
                yield from ((each, needed and name == "allOf") for each in inner)
            elif name in _SINGLE and "if" in part:
                self._keys.branches = True
                yield inner, False
            elif name == "dependentSchemas" and isinstance(inner, Mapping):
                self._keys.branches = True
                yield from ((each, False) for each in inner.values())


def _opens(rest: Any) -> bool:
    return rest is not None and rest is not False and is_anything(rest)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
