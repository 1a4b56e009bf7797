"""Whether two schemas can both describe one value: what tells `oneOf` from `anyOf`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from gguf_worker.schemas.references import References
from gguf_worker.schemas.types import ALL_TYPES, type_of, types_of

_MOST_LEVELS = 3
_MOST_REFERENCES = 8


def all_disjoint(branches: list[Any], references: References, *, closed: bool) -> bool:
    """Tell whether no value matches two of the branches. False: that was not seen.

    `closed`: an answer to a branch has no other keys than the branch lists, if it lists some.
    """
    overlap = _Overlap(references, closed)
    return all(
        overlap.disjoint(branch, other, _MOST_LEVELS)
        for at, branch in enumerate(branches)
        for other in branches[at + 1 :]
    )


class _Overlap:
    def __init__(self, references: References, closed: bool) -> None:
        self._references = references
        self._closed = closed

    def disjoint(self, one: Any, other: Any, levels: int) -> bool:
        one, other = self._resolved(one), self._resolved(other)
        if one is False or other is False:
            return True
        if not isinstance(one, Mapping) or not isinstance(other, Mapping):
            return False
        if not self._types(one, levels) & self._types(other, levels):
            return True
        values = self._values(one), self._values(other)
        if values[0] is not None and values[1] is not None:
            return values[0].isdisjoint(values[1])
        if not levels or self._types(one, levels) & self._types(other, levels) != {"object"}:
            return False
        return self._tells(one, other, levels) or self._tells(other, one, levels)

    def _tells(self, one: Mapping[str, Any], other: Mapping[str, Any], levels: int) -> bool:
        """Tell whether a key that `one` requires cannot have the value that `other` wants.

        Both have the key, or an answer to `other` has no such key, since it lists its keys.
        """
        mine, others = _mapping(one.get("properties")), _mapping(other.get("properties"))
        required = one.get("required")
        for name in required if isinstance(required, list) else ():
            if not isinstance(name, str):
                continue
            if name in mine and name in others:
                if self.disjoint(mine[name], others[name], levels - 1):
                    return True
            elif name not in others and other.get("additionalProperties") is False:
                return "patternProperties" not in other
        return self._closed and self._each_lacks(one, other)

    def _each_lacks(self, one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
        """Tell whether each requires a key that an answer to the other one cannot have."""
        return all(
            any(name not in _mapping(there.get("properties")) for name in _names(here))
            and isinstance(there.get("properties"), Mapping)
            and "patternProperties" not in there
            and not there.get("additionalProperties")
            for here, there in ((one, other), (other, one))
        )

    def _types(self, schema: Any, levels: int) -> frozenset[str]:
        if not isinstance(schema, Mapping):
            return frozenset() if schema is False else ALL_TYPES
        types, _ = types_of(schema)
        if types is None and (values := self._listed(schema)) is not None:
            types = frozenset(map(type_of, values))
        if types is None and levels:
            for key in ("anyOf", "oneOf"):
                if isinstance(branches := schema.get(key), list):
                    parts = map(self._resolved, branches)
                    types = frozenset().union(*(self._types(part, levels - 1) for part in parts))
        found = ALL_TYPES if types is None else types
        return found | {"number"} if "integer" in found else found

    def _listed(self, schema: Mapping[str, Any]) -> list[Any] | None:
        if "const" in schema:
            return [schema["const"]]
        values = schema.get("enum")
        return values if isinstance(values, list) else None

    def _values(self, schema: Mapping[str, Any]) -> set[str] | None:
        values = self._listed(schema)
        return None if values is None else {_text(each) for each in values}

    def _resolved(self, schema: Any) -> Any:
        for _ in range(_MOST_REFERENCES):
            if not isinstance(schema, Mapping) or not isinstance(schema.get("$ref"), str):
                return schema
            target = self._references.target(schema["$ref"])
            if target is None:
                return True
            schema = target.schema
        return True


def _text(value: Any) -> str:
    """Return a value as text; 1.0 is 1."""
    whole = isinstance(value, float) and value.is_integer()
    return json.dumps(int(value) if whole else value, sort_keys=True)


def _names(schema: Mapping[str, Any]) -> Iterator[str]:
    required = schema.get("required")
    yield from (
        (each for each in required if isinstance(each, str)) if isinstance(required, list) else ()
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
