"""What of a schema an answer is not held to, in sentences for the schema's author."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

_MOST_PATHS = 3
"""Places that are named for each thing; the rest is counted."""
_MOST_THINGS = 15
_PATH_CHARACTERS = 80
_THING_CHARACTERS = 120

SchemaPath = tuple[str, ...]
"""The keys and numbers on the way to a part of a schema."""


class Relaxations:
    """Things that were relaxed, each with the places where."""

    def __init__(self) -> None:
        self._places: dict[str, dict[str, None]] = {}
        self.grave = False
        """Something is relaxed that a strict schema has to be refused for."""

    def __bool__(self) -> bool:
        return bool(self._places)

    def add(self, thing: str, path: SchemaPath, *, grave: bool = True) -> None:
        """Note that `thing`, in words, is relaxed at `path`."""
        self.grave = self.grave or grave
        places = self._places.setdefault(_cut(thing, _THING_CHARACTERS), {})
        places[_cut(".".join(path), _PATH_CHARACTERS) or "its top"] = None

    def warnings(self, subject: str) -> tuple[str, ...]:
        """Return sentences that say what of `subject` an answer is not held to."""
        things = [f"{subject} is not held to {thing}" for thing in self._things()]
        more = len(self._places) - len(things)
        rest = f"{subject} is not held to {more} more things of its schema"
        return (*things, rest) if more else tuple(things)

    def summary(self) -> str:
        """Return all things in one phrase."""
        more = len(self._places) - _MOST_PATHS
        things = "; ".join(list(self._things())[:_MOST_PATHS])
        return f"{things}; and {more} more" if more > 0 else things

    def _things(self) -> Iterator[str]:
        for thing, places in islice(self._places.items(), _MOST_THINGS):
            named = ", ".join(islice(places, _MOST_PATHS))
            more = len(places) - _MOST_PATHS
            yield f"{thing} (at {named}{f' and {more} more places' if more > 0 else ''})"


def _cut(text: str, most: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else text[:most] + "…"
