"""A served model's card: its names, and the facts that callers may know."""

from __future__ import annotations

from dataclasses import dataclass

from gguf_worker.providers.capabilities import Capabilities

_DEFAULT_TAG = ":latest"
"""Ollama's clients add it to the name of a model that has no tag."""

ANY_NAME = "*"
"""An alias of a model that answers to every name that no other model has."""


@dataclass(frozen=True, slots=True)
class ModelCard:
    """A served model's names and facts. `created` is its file's time, in seconds since 1970.

    Those of the `aliases` that are `listed` are shown beside its name. A fact is None if it is
    unknown, for example before the model was first loaded.
    """

    name: str
    aliases: tuple[str, ...] = ()
    created: int = 0
    context: int | None = None
    parameters: int | None = None
    quantisation: str | None = None
    listed: tuple[str, ...] = ()
    architecture: str | None = None
    """The architecture by its name in the file, such as `llama`."""
    bytes: int | None = None
    """The size of its file."""
    capabilities: Capabilities | None = None
    thinks: bool | None = None
    """Its answers may begin with a thought."""

    @property
    def shown_names(self) -> tuple[str, ...]:
        """Its names in lists and messages, its own first."""
        return tuple(dict.fromkeys((self.name, *self.listed)))

    @property
    def answers_to_any(self) -> bool:
        """Tells whether it answers to every name that no other model has."""
        return ANY_NAME in self.aliases

    def answers_to(self, name: str) -> bool:
        """Tell whether `name` is one of the model's, with Ollama's tag `:latest` or without."""
        return _untagged(name) in {_untagged(each) for each in (self.name, *self.aliases)}


def _untagged(name: str) -> str:
    return name.removesuffix(_DEFAULT_TAG)
