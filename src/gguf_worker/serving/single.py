"""The model of a worker that has one: opened at the start, and in memory until the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from gguf_worker.errors import EngineUnavailable
from gguf_worker.providers import ModelCard, Provider
from gguf_worker.serving.loaded_model import RETRY_WHILE_LOADING, LoadedModel

_CAPACITY_BEFORE_START = 3
"""Jobs to hold before the model is open, when its number of sequences is not known."""


class SingleModel:
    """One model as ServedModels. `make` makes it; its argument is called when the model is lost."""

    def __init__(self, make: Callable[[Callable[[str], None]], LoadedModel]) -> None:
        self._make = make
        self._model: LoadedModel | None = None

    def start(self, on_dead: Callable[[str], None]) -> None:
        self.close()  # the rest of a failed start
        self._model = self._make(on_dead)
        self._model.fetch()
        self._model.open()

    def cards(self) -> Sequence[ModelCard]:
        return (self._open_model().card,)

    def provider(self, name: str) -> Provider:
        return self._open_model().provider

    def load_phases(self, name: str) -> Mapping[str, float] | None:
        """Return None: the model is in memory, and no request waits for it."""
        return None

    def facts(self) -> Mapping[str, object]:
        return {}

    @property
    def capacity(self) -> int:
        """Jobs to hold at once: all that are computed together, and a few to follow."""
        if self._model is None or not self._model.is_open:
            return _CAPACITY_BEFORE_START
        return self._model.sequences + self._model.spare

    @property
    def dead(self) -> bool:
        return self._model is not None and self._model.dead is not None

    def close(self) -> None:
        if self._model is not None:
            self._model.close()

    def _open_model(self) -> LoadedModel:
        if self._model is None or not self._model.is_open:
            raise EngineUnavailable(
                "The model is still being loaded.", retry_after=RETRY_WHILE_LOADING
            )
        return self._model
