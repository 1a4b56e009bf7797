"""A served model's card: its names, and what callers may know of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelCard:
    """A served model, as callers may know it. `created` is its file's time, seconds since 1970.

    What is None is not known, or not yet: the model has not been loaded.
    """

    name: str
    aliases: tuple[str, ...] = ()
    created: int = 0
    context: int | None = None
    parameters: int | None = None
    quantisation: str | None = None

    def answers_to(self, name: str) -> bool:
        return name == self.name or name in self.aliases
