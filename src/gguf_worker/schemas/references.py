"""The parts of a schema that its references name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote, urljoin

_MOST_PARTS = 20_000
"""Parts of a document that are searched for names."""
_COLLECTIONS = (("$defs",), ("definitions",), ("components", "schemas"))
"""Where documents keep schemas that are named elsewhere."""


class Target(NamedTuple):
    """A part of a document: the path to it, and what is there."""

    path: tuple[str, ...]
    schema: Any


class References:
    """The named parts of one document."""

    def __init__(self, document: Any) -> None:
        self._document = document
        self._names: dict[str, Target] | None = None
        self._targets: dict[str, Target | None] = {}

    def target(self, reference: str) -> Target | None:
        """Return what a reference names, or None if it is nothing in this document."""
        if reference not in self._targets:
            self._targets[reference] = self._found(reference)
        return self._targets[reference]

    def _found(self, reference: str) -> Target | None:
        address, _, fragment = reference.partition("#")
        base = self._at_address(address)
        if base is not None and (not fragment or fragment.startswith("/")):
            found = _walked(base, fragment)
        else:
            found = None
        return found or self._named.get(reference) or self._collected(fragment or address)

    def _at_address(self, address: str) -> Target | None:
        return Target((), self._document) if not address else self._named.get(address)

    def _collected(self, fragment: str) -> Target | None:
        """Return the definition of that last name: its document may have been cut out of another
        one, whose collection has another name."""
        name = _unescaped(fragment.rsplit("/", 1)[-1])
        for collection in _COLLECTIONS:
            at: Any = self._document
            for step in (*collection, name):
                at = at.get(step) if isinstance(at, Mapping) else None
            if at is not None:
                return Target((*collection, name), at)
        return None

    @property
    def _named(self) -> dict[str, Target]:
        """Return the parts that have an address or an anchor."""
        if self._names is None:
            self._names = {}
            for part in _parts(self._document):
                self._name(part)
        return self._names

    def _name(self, part: Target) -> None:
        assert self._names is not None
        for key in ("$id", "id"):
            if isinstance(address := part.schema.get(key), str) and address:
                root = self._document.get("$id") or self._document.get("id")
                whole = _joined(root, address)
                for name in (address, whole, address.rstrip("#")):
                    self._names.setdefault(name, part)
                if isinstance(root, str) and whole.startswith(root.rsplit("/", 1)[0] + "/"):
                    self._names.setdefault(whole.removeprefix(root.rsplit("/", 1)[0] + "/"), part)
        for key in ("$anchor", "$dynamicAnchor"):
            if isinstance(anchor := part.schema.get(key), str):
                self._names.setdefault(f"#{anchor}", part)


def _joined(root: Any, address: str) -> str:
    try:
        return urljoin(root, address) if isinstance(root, str) else address
    except ValueError:  # such as an unclosed bracket in a host
        return address


def _walked(base: Target, pointer: str) -> Target | None:
    """Return what a JSON pointer leads to from `base`."""
    path, at = base
    for escaped in pointer.split("/")[1:]:
        step = _unescaped(escaped)
        if isinstance(at, Mapping) and (step in at or escaped in at):
            step = step if step in at else escaped
            at = at[step]
        elif isinstance(at, list) and step.isdecimal() and int(step[:9]) < len(at):
            at = at[int(step[:9])]
        else:
            return None
        path = (*path, step)
    return Target(path, at)


def _unescaped(step: str) -> str:
    return unquote(step).replace("~1", "/").replace("~0", "~")


def _parts(document: Any) -> Iterator[Target]:
    """Yield the objects of a document, outer ones first."""
    left = [Target((), document)]
    for _ in range(_MOST_PARTS):
        if not left:
            return
        path, at = left.pop()
        if isinstance(at, Mapping):
            yield Target(path, at)
            left += [Target((*path, str(key)), each) for key, each in at.items()]
        elif isinstance(at, list):
            left += [Target((*path, str(key)), each) for key, each in enumerate(at)]
