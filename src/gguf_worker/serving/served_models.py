"""The models that a worker serves, behind one protocol for one model and for a catalog."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from gguf_worker.config import CatalogEntry, Settings
from gguf_worker.events import Observer
from gguf_worker.models.store import Progress
from gguf_worker.providers import ModelCard, Provider


class ServedModels(Protocol):
    """One model or several, started together."""

    def start(self, on_dead: Callable[[str], None]) -> None:
        """Open the models of the start; blocks. Raises StartError; may be called again.

        `on_dead` is called, on another thread, when nothing can be served any more.
        """
        ...

    def cards(self) -> Sequence[ModelCard]:
        """Return the cards, the default's first. Raises EngineUnavailable while none is open."""
        ...

    def provider(self, name: str) -> Provider:
        """Return the provider of the model with this card's name."""
        ...

    def load_phases(self, name: str) -> Mapping[str, float] | None:
        """Return the seconds of the model's loading, by phase, or None if the model is in memory.

        For a request that has to wait for the model, they are complete when the wait is over.
        """
        ...

    def facts(self) -> Mapping[str, object]:
        """Return the facts that the health shows in addition to those of the events."""
        ...

    @property
    def capacity(self) -> int:
        """Jobs to hold at once."""
        ...

    @property
    def dead(self) -> bool:
        """True if nothing can be served any more."""
        ...

    def close(self) -> None:
        """End the engines. Safe at any time."""
        ...


def served_models(
    settings: Settings,
    environ: Mapping[str, str],
    *,
    observe: Observer,
    on_download: Callable[[Progress], None],
    on_load: Callable[[float], None],
    now: Callable[[], float],
) -> ServedModels:
    """Return the models of the settings. Swapping is imported for a catalog only.

    `on_download` and `on_load` (a fraction) are told of long work. Nothing is opened yet.
    """
    # A command that only asks for the store imports neither the engine's client nor the chat.
    from gguf_worker.serving.loaded_model import LoadedModel

    def new_model(
        settings: Settings,
        entry: CatalogEntry | None,
        observe: Observer,
        on_dead: Callable[[str], None],
    ) -> LoadedModel:
        return LoadedModel(
            settings,
            environ,
            entry=entry,
            observe=observe,
            on_download=on_download,
            on_load=on_load,
            on_dead=on_dead,
            now=now,
        )

    if settings.catalog is None:
        from gguf_worker.serving.single import SingleModel

        return SingleModel(lambda on_dead: new_model(settings, None, observe, on_dead))
    from gguf_worker.serving.catalog import LoadedCatalog

    return LoadedCatalog(settings, settings.catalog, new_model, observe=observe)
