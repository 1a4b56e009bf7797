"""The work that schemas of strangers may cost: it is done beside everybody's requests."""

from __future__ import annotations

from dataclasses import dataclass

_MOST_OF_ONE = 500
"""Looks for the keys of one object."""


@dataclass
class Work:
    """What is left of the work for the schemas of one request."""

    parts: int = 4000
    """Parts that are translated; all others may be anything."""
    looks: int = 4000
    """Looks at parts, to find the keys of combined objects, and whether branches exclude each
    other; beyond that objects stay open, and branches count as overlapping."""
    copies: int = 50_000
    """Characters of keys that are repeated to close combined objects; others stay open."""

    @property
    def looks_for_one(self) -> int:
        """The looks that the keys of one object may take."""
        return max(0, min(self.looks, _MOST_OF_ONE))

    def allows_part(self) -> bool:
        """Count one more part; tells whether it may be translated."""
        self.parts -= 1
        return self.parts >= 0

    def allows_comparisons(self, branches: int) -> bool:
        """Count the comparisons of each branch with each; tells whether they may be done."""
        if branches * branches // 2 > self.looks:
            return False
        self.looks -= branches * branches // 2
        return True

    def allows_copies(self, characters: int) -> bool:
        """Count characters; tells whether they may be copied."""
        self.copies -= characters
        return self.copies >= 0
