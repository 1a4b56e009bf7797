"""The kinds of items, blocks and tools that published clients know, and samples gone wrong."""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from typing_extensions import is_typeddict

from gguf_worker.api.reading import GenerationCall
from gguf_worker.errors import InvalidRequest

ODD: tuple[Any, ...] = (None, "", [], {}, 5, True, "x", ["x"], [[]], [None], {"x": None}, 1.5)
"""Values that a member may have in place of its own."""


def outcome(read: Callable[[], GenerationCall]) -> GenerationCall | InvalidRequest:
    """Return what was read, or the fault that was found; any other failure is raised."""
    try:
        return read()
    except InvalidRequest as error:
        return error


def kinds(union: Any) -> set[str]:
    """Return the values of `type` in a union of TypedDicts, as a package's types have them."""
    found: set[str] = set()
    for member in typing.get_args(union):
        if not is_typeddict(member):
            found |= kinds(member)
            continue
        hint = typing.get_type_hints(member).get("type")
        found |= {each for each in _literals(hint) if isinstance(each, str)}
    return found


def _literals(hint: Any) -> Iterator[Any]:
    if typing.get_origin(hint) is typing.Literal:
        yield from typing.get_args(hint)
    else:
        for inner in typing.get_args(hint):
            yield from _literals(inner)


def gone_wrong(sample: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield a name, the member and the sample with that member missing or odd, at every depth."""
    for member, value in sample.items():
        yield "missing", member, {name: each for name, each in sample.items() if name != member}
        for odd in ODD:
            empty = "empty" if type(odd) is type(value) and not odd else "of the wrong type"
            yield "null" if odd is None else empty, member, {**sample, member: odd}
        inner = value[0] if isinstance(value, list) and value else value
        if isinstance(inner, Mapping):
            for name, below, changed in gone_wrong(inner):
                odd_inner = [changed] if isinstance(value, list) else changed
                yield name, f"{member}.{below}", {**sample, member: odd_inner}
