"""The models of a worker that has a catalog: those opened at the start, and facts about all.

The pool decides which of them are in memory later.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial

from gguf_worker.config import Catalog, CatalogEntry, Settings
from gguf_worker.errors import EngineStartFailed, EngineUnavailable, StartError, WorkerError
from gguf_worker.events import Event, ModelFailed, ModelReady, Observer, PhaseDone
from gguf_worker.models.memory import GPU_SEQUENCES, QUEUED_PER_SEQUENCE
from gguf_worker.providers import Capabilities, ModelCard, Provider
from gguf_worker.serving.loaded_model import RETRY_WHILE_LOADING, LoadedModel, MakeModel
from gguf_worker.serving.pool import Pool
from gguf_worker.serving.swapping_provider import SwappingProvider

log = logging.getLogger("gguf_worker.app")


class LoadedCatalog:
    """The models of a catalog as ServedModels. `settings` are those of its default."""

    def __init__(
        self, settings: Settings, catalog: Catalog, make: MakeModel, *, observe: Observer
    ) -> None:
        self._settings = settings
        self._make = make
        self._observe = observe
        others = [entry for entry in catalog.entries if entry is not catalog.default]
        self._entries = {entry.name: entry for entry in (catalog.default, *others)}
        self._pinned: dict[str, Settings] = {}
        """The settings, with the commit, of models that were found once."""
        self._capabilities: dict[str, Capabilities] = {}
        """The capabilities of models that were open once."""
        entries = self._entries.items()
        self._cards = {name: _unknown_card(entry, settings) for name, entry in entries}
        self._phases: dict[str, dict[str, float]] = {name: {} for name in self._entries}
        self._lock = threading.Lock()  # guards the pinned settings and the cards
        self._pool: Pool[LoadedModel] | None = None
        self._providers: dict[str, Provider] = {}
        self._starting = ""
        """The name of the model whose phases are those of the worker's start."""
        self._sequences = 1
        self._spare = 2
        self._unservable = False

    def start(self, on_dead: Callable[[str], None]) -> None:
        """Open the default, or else the first that can be opened, and those to be preloaded.

        Raises StartError if none can be opened; it may be called again then.
        """
        self.close()  # the rest of a failed start
        pool = self._pool = Pool(
            {name: entry.keep_alive for name, entry in self._entries.items()},
            self._new_model,
            observe=self._observe_pool,
            max_waiting=self._max_waiting,
            max_wait=self._settings.request_timeout,
            on_unservable=lambda reason: self._become_unservable(reason, on_dead),
        )
        problems: list[WorkerError] = []
        opened = 0
        for entry in self._entries.values():
            if opened and not entry.preload:
                continue
            self._starting = "" if opened else entry.name
            try:
                pool.load(entry.name, no_evict=opened > 0)
                opened += 1
            except WorkerError as error:
                log.error("the model %s is not loaded at the start: %s", entry.name, error.message)
                problems.append(error)
        self._starting = ""
        if not opened:
            self.close()
            raise _start_error(problems)
        self._providers = {
            name: SwappingProvider(pool, name, capabilities=partial(self._capabilities.get, name))
            for name in self._entries
        }

    def cards(self) -> Sequence[ModelCard]:
        if not self._providers:
            raise EngineUnavailable(
                "The models are still being loaded.", retry_after=RETRY_WHILE_LOADING
            )
        with self._lock:
            return tuple(self._cards.values())

    def provider(self, name: str) -> Provider:
        return self._providers[name]

    def load_phases(self, name: str) -> Mapping[str, float] | None:
        if self._pool is None or self._pool.admits(name):
            return None
        return self._phases[name]

    def facts(self) -> Mapping[str, object]:
        return {"models": {} if self._pool is None else self._pool.facts()}

    @property
    def capacity(self) -> int:
        """Jobs to hold at once.

        In addition to those that the first model computes, as many may wait for another model,
        which then serves them together.
        """
        return min(2 * self._sequences + self._spare, self._max_waiting)

    @property
    def dead(self) -> bool:
        return self._unservable

    def close(self) -> None:
        self._providers = {}
        if self._pool is not None:
            self._pool.close()

    @property
    def _max_waiting(self) -> int:
        """Requests that may wait for models: as many as may run and wait in one.

        Settings that are not set count with a GPU's defaults, since no model is open yet.
        """
        sequences = self._settings.max_concurrency or GPU_SEQUENCES
        queued = self._settings.max_queue
        return sequences + (QUEUED_PER_SEQUENCE * sequences if queued is None else queued)

    def _new_model(self, name: str, on_dead: Callable[[str], None]) -> LoadedModel:
        """Make a model for the pool."""
        entry = self._entries[name]
        with self._lock:
            settings = self._pinned.get(name, entry.settings)
        model: LoadedModel

        def observe(event: Event) -> None:
            if isinstance(event, PhaseDone):
                self._note_phase(name, event)
                if name != self._starting:
                    return  # not a phase of the worker's start
            if isinstance(event, ModelReady):
                self._note_opened(name, model)
            self._observe(event)

        model = self._make(settings, entry, observe, on_dead)
        return model

    def _note_phase(self, name: str, event: PhaseDone) -> None:
        if event.phase == "resolve":
            self._phases[name].clear()
        self._phases[name][event.phase] = event.seconds

    def _note_opened(self, name: str, model: LoadedModel) -> None:
        with self._lock:
            self._cards[name] = model.card
            self._pinned[name] = model.pinned
            self._capabilities[name] = model.capabilities
        if name == self._starting:
            self._sequences, self._spare = model.sequences, model.spare

    def _observe_pool(self, event: Event) -> None:
        if isinstance(event, ModelFailed):
            with self._lock:
                self._pinned.pop(event.name, None)  # the commit may be gone
                self._capabilities.pop(event.name, None)
        self._observe(event)

    def _become_unservable(self, reason: str, on_dead: Callable[[str], None]) -> None:
        """Report that no model can be served any more; during the start, `start` raises instead."""
        if self._providers:
            self._unservable = True
            on_dead(reason)


def _unknown_card(entry: CatalogEntry, settings: Settings) -> ModelCard:
    """Return the card of a model that was never open; its time is the catalog file's."""
    created = 0
    if settings.models_file is not None:
        with suppress(OSError):
            created = int(settings.models_file.stat().st_mtime)
    return ModelCard(entry.name, entry.aliases, created)


def _start_error(problems: Sequence[WorkerError]) -> StartError:
    """Return the first error that may pass, for then a model may be had later; else the first."""
    errors = [
        error
        if isinstance(error, StartError)
        else EngineStartFailed(error.message).replaced(retry_after=error.retry_after)
        for error in problems
    ]
    return next((error for error in errors if not error.permanent), errors[0])
