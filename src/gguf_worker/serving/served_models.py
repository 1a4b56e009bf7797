"""The models that a worker serves, behind one protocol: that of MODEL alone, or those of its catalog."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from gguf_worker.config import Settings
from gguf_worker.events import Observer
from gguf_worker.providers import ModelCard, Provider
from gguf_worker.serving.loaded_model import MakeModel
from gguf_worker.serving.single import SingleModel


class ServedModels(Protocol):
    """One model or several, started together."""

    def start(self, on_dead: Callable[[str], None]) -> None:
        """Open what is opened at the start; blocks. Raises StartError, and may be called again then.

        `on_dead` is called, on another thread, when nothing can be served any more.
        """
        ...

    def cards(self) -> Sequence[ModelCard]:
        """The models' cards, the default's first; EngineUnavailable while nothing is open yet."""
        ...

    def provider(self, name: str) -> Provider:
        """The provider of the model with this card's name."""
        ...

    def loaded_for(self, name: str) -> Mapping[str, float] | None:
        """Seconds by phase of the loading that a request for the model waits for; None: it is in memory."""
        ...

    def facts(self) -> Mapping[str, object]:
        """State for the health, beside what the events say."""
        ...

    @property
    def capacity(self) -> int:
        """Jobs to hold at once."""
        ...

    @property
    def dead(self) -> bool:
        """Nothing can be served any more."""
        ...

    def close(self) -> None:
        """End the engines; safe at any time."""
        ...


def served_models(settings: Settings, make: MakeModel, *, observe: Observer) -> ServedModels:
    """The models that the settings name. What takes turns is imported for a catalog only."""
    if settings.catalog is None:
        return SingleModel(lambda on_dead: make(settings, None, observe, on_dead))
    from gguf_worker.serving.catalog import LoadedCatalog

    return LoadedCatalog(settings, settings.catalog, make, observe=observe)
