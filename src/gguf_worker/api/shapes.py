"""What all shapes of bodies have in common: strictness, and the words of a fault.

Knows no field.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticCustomError

MAX_OPTIONS = 64 * 1024
"""Bytes, as JSON, of an object whose inside nobody here looks at."""

MAX_NESTING = 200
"""Objects and lists within each other: far below where Python's own recursion ends, wherever it begins."""

MAX_WIDTH = 100_000
"""Objects and lists on one such level: far more than anybody means, looked at in some milliseconds."""

TOO_NESTED = (
    f"is nested too much: {MAX_NESTING} levels may be, and {MAX_WIDTH} objects and lists on one"
)


class Shape(BaseModel):
    """Strict: "5" is no number, true is no 1; but an integer is a fine float.

    Null means the default everywhere and never gets here, nor do the defaults below get out: what
    was not sent is left to the generation.
    """

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


def fault(text: str) -> PydanticCustomError:
    """A fault of a field, whose name goes before `text`."""
    return PydanticCustomError("value", "Input {text}", {"text": text})


def too_nested(value: Any) -> bool:
    """Is it nested deeper than MAX_NESTING, or wider than MAX_WIDTH? Level by level, without recursion."""
    level = [value]
    for _ in range(MAX_NESTING + 1):
        level = [inner for each in level for inner in _nested(each)]
        if not level or len(level) > MAX_WIDTH:
            return bool(level)
    return True


_NESTS = frozenset({dict, list})


def _nested(value: Any) -> Iterable[Any]:
    """The objects and lists right inside of one."""
    inside = value.values() if isinstance(value, dict) else value
    if not isinstance(value, dict | list) or _NESTS.isdisjoint(map(type, inside)):
        return ()  # as a list of a million tokens, which no step of Python's is spent on
    return [inner for inner in inside if isinstance(inner, dict | list)]


def small(value: dict[str, Any]) -> dict[str, Any]:
    """The object, if it is not larger than MAX_OPTIONS."""
    if len(msgspec.json.encode(value)) > MAX_OPTIONS:
        raise fault(f"is larger than {MAX_OPTIONS} bytes")
    return value
