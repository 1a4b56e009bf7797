"""A served model's card: its names, and the facts that callers may know."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelCard:
    """A served model's names and facts. `created` is its file's time, in seconds since 1970.

    A fact is None if it is unknown, for example before the model was first loaded.
    """

    name: str
    aliases: tuple[str, ...] = ()
    created: int = 0
    context: int | None = None
    parameters: int | None = None
    quantisation: str | None = None

    def answers_to(self, name: str) -> bool:
        """Tell whether `name` is one of the model's."""
        return name == self.name or name in self.aliases
