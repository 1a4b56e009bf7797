"""The keywords of one part of a schema, read with their types; null means absent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from gguf_worker.schemas.relaxations import Relaxations, SchemaPath

_WHOLE = re.compile(r"\d{1,15}")
_MOST_COUNT = 10**9
_MOST_NUMBER = 1e300


class Keywords:
    """One part of a schema, at `path`; what cannot be read is noted in `relaxed`."""

    def __init__(self, schema: Mapping[str, Any], path: SchemaPath, relaxed: Relaxations) -> None:
        # Null is a value for `const`, and for `const` alone.
        self.sent = {
            name: each for name, each in schema.items() if each is not None or name == "const"
        }
        self.path = path
        self._relaxed = relaxed

    def __contains__(self, name: object) -> bool:
        return name in self.sent

    def below(self, *steps: str) -> tuple[str, ...]:
        """Return the path to what is below this part."""
        return (*self.path, *steps)

    def relax(self, thing: str, *steps: str, grave: bool = True) -> None:
        """Note that an answer is not held to `thing`."""
        self._relaxed.add(thing, self.below(*steps), grave=grave)

    def mapping(self, name: str) -> Mapping[str, Any]:
        """Return an object of schemas or lists; {} if there is none."""
        value = self.sent.get(name, {})
        if isinstance(value, Mapping):
            return value
        self.relax(f"`{name}`, which is no object")
        return {}

    def listed(self, name: str) -> list[Any]:
        """Return a list; [] if there is none."""
        value = self.sent.get(name, [])
        if isinstance(value, list):
            return value
        self.relax(f"`{name}`, which is no list")
        return []

    def text(self, name: str) -> str | None:
        """Return a text, or None."""
        value = self.sent.get(name)
        if value is None or isinstance(value, str):
            return value
        self.relax(f"`{name}`, which is no text")
        return None

    def count(self, name: str) -> int | None:
        """Return a number of things, or None; as a text too, as Google's API writes them."""
        value = self.sent.get(name)
        if isinstance(value, str) and _WHOLE.fullmatch(value):
            value = int(value)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
            return None if value is None else min(value, _MOST_COUNT)
        self.relax(f"`{name}`, which is no count")
        return None

    def number(self, name: str) -> int | float | None:
        """Return a number, or None."""
        value = self.sent.get(name)
        if value is None:
            return None
        if isinstance(value, int | float) and not isinstance(value, bool):
            if -_MOST_NUMBER < value < _MOST_NUMBER:
                return value
            self.relax(f"`{name}` beyond all bounds")
            return None
        self.relax(f"`{name}`, which is no number")
        return None

    def bounds(self, least: str, most: str) -> dict[str, int]:
        """Return two counts under their names; none if nothing lies between them."""
        low, high = self.count(least), self.count(most)
        if low is not None and high is not None and low > high:
            self.relax(f"`{least}` above `{most}`")
            return {}
        found = {least: low or None, most: high}
        return {name: each for name, each in found.items() if each is not None}


def is_anything(schema: Any) -> bool:
    """Tell whether a schema allows every value, whatever it says about it."""
    if isinstance(schema, Mapping):
        return all(name in ANNOTATIONS or name.startswith("x-") for name in schema)
    return schema is True or schema is None


ANNOTATIONS = frozenset(
    {
        "$comment",
        "$id",
        "$schema",
        "default",
        "deprecated",
        "description",
        "example",
        "examples",
        "externalDocs",
        "id",
        "markdownDescription",
        "readOnly",
        "title",
        "writeOnly",
        "xml",
    }
)
"""Keywords that say nothing about a value."""
