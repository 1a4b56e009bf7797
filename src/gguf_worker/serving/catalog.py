"""The models of a worker that has a catalog: which of them are opened at the start, and what of each is known.

Who is in memory when, the pool decides.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial

from gguf_worker.config import Catalog, Entry, Settings
from gguf_worker.errors import EngineStartFailed, EngineUnavailable, StartError, WorkerError
from gguf_worker.events import Event, ModelFailed, ModelReady, Observer, PhaseDone
from gguf_worker.providers import Capabilities, ModelCard, Provider
from gguf_worker.serving.loaded_model import LoadedModel, MakeModel
from gguf_worker.serving.pool import Pool
from gguf_worker.serving.swapping_provider import SwappingProvider

log = logging.getLogger("gguf_worker.app")

_SEQUENCES = 32
_QUEUED_PER_SEQUENCE = 4
"""As models/fit has them on a GPU: before any model is open, nobody knows how many it computes together."""


class LoadedCatalog:
    """The models of `catalog`, of which `settings` are the default's. `start` blocks, and raises StartError
    where none can be opened; it may be called again then."""

    def __init__(
        self, settings: Settings, catalog: Catalog, make: MakeModel, *, observe: Observer
    ) -> None:
        self._settings = settings
        self._make = make
        self._observe = observe
        others = [entry for entry in catalog.entries if entry is not catalog.default]
        self._entries = {entry.name: entry for entry in (catalog.default, *others)}
        self._pinned: dict[str, Settings] = {}
        """Of models that were found once."""
        self._capabilities: dict[str, Capabilities] = {}
        """Of models that were open once."""
        self._cards = {name: _unknown(entry, settings) for name, entry in self._entries.items()}
        self._phases: dict[str, dict[str, float]] = {name: {} for name in self._entries}
        self._lock = threading.Lock()  # guards what is pinned, and the cards
        self._pool: Pool[LoadedModel] | None = None
        self._providers: dict[str, Provider] = {}
        self._starting = ""
        """The model whose phases are those of the worker's start."""
        self._sequences = 1
        self._spare = 2
        self._hopeless = False

    def start(self, on_dead: Callable[[str], None]) -> None:
        """Open the default, or where that fails the first that can be, and those that are to be preloaded."""
        self.close()  # what a start that failed has left
        pool = self._pool = Pool(
            {name: entry.keep_alive for name, entry in self._entries.items()},
            self._resident,
            observe=self._told,
            most_waiting=self._most_waiting,
            patience=self._settings.request_timeout,
            on_hopeless=lambda reason: self._lost(reason, on_dead),
        )
        problems: list[WorkerError] = []
        opened = 0
        for entry in self._entries.values():
            if opened and not entry.preload:
                continue
            self._starting = "" if opened else entry.name
            try:
                pool.load(entry.name, modest=opened > 0)
                opened += 1
            except WorkerError as error:
                log.error("the model %s is not loaded at the start: %s", entry.name, error.message)
                problems.append(error)
        self._starting = ""
        if not opened:
            self.close()
            raise _start_error(problems[0])
        self._providers = {
            name: SwappingProvider(pool, name, capabilities=partial(self._capabilities.get, name))
            for name in self._entries
        }

    def cards(self) -> Sequence[ModelCard]:
        """All of the catalog, the default first."""
        if not self._providers:
            raise EngineUnavailable("The models are still being loaded.", retry_after=5.0)
        with self._lock:
            return tuple(self._cards.values())

    def provider(self, name: str) -> Provider:
        return self._providers[name]

    def loaded_for(self, name: str) -> Mapping[str, float] | None:
        """What the loading takes that a request has to wait for, in seconds by phase, once that is over; None:
        the model is in memory, and stays for it."""
        if self._pool is None or self._pool.admits(name):
            return None
        return self._phases[name]

    def facts(self) -> Mapping[str, object]:
        """For the health, beside what the events say."""
        return {"models": {} if self._pool is None else self._pool.facts()}

    @property
    def capacity(self) -> int:
        """Jobs to hold at once: as many again as the first model computes may wait for the turn of another, so
        that those are served together."""
        return min(2 * self._sequences + self._spare, self._most_waiting)

    @property
    def dead(self) -> bool:
        """No model can be served."""
        return self._hopeless

    def close(self) -> None:
        self._providers = {}
        if self._pool is not None:
            self._pool.close()

    @property
    def _most_waiting(self) -> int:
        """As many requests may wait for models as may run and wait in one."""
        sequences = self._settings.max_concurrency or _SEQUENCES
        queued = self._settings.max_queue
        return sequences + (_QUEUED_PER_SEQUENCE * sequences if queued is None else queued)

    def _resident(self, name: str, on_dead: Callable[[str], None]) -> LoadedModel:
        """A new one, for the pool."""
        entry = self._entries[name]
        with self._lock:
            settings = self._pinned.get(name, entry.settings)
        model: LoadedModel

        def observe(event: Event) -> None:
            if isinstance(event, PhaseDone):
                if event.phase == "resolve":
                    self._phases[name].clear()
                self._phases[name][event.phase] = event.seconds
                if name != self._starting:
                    return  # not of the worker's start
            if isinstance(event, ModelReady):
                self._opened(name, model)
            self._observe(event)

        model = self._make(settings, entry, observe, on_dead)
        return model

    def _opened(self, name: str, model: LoadedModel) -> None:
        with self._lock:
            self._cards[name] = model.card
            self._pinned[name] = model.pinned
            self._capabilities[name] = model.capabilities
        if name == self._starting:
            self._sequences, self._spare = model.sequences, model.spare

    def _told(self, event: Event) -> None:
        """What the pool reports."""
        if isinstance(event, ModelFailed):
            with self._lock:
                self._pinned.pop(event.name, None)  # what was found once may be gone
                self._capabilities.pop(event.name, None)
        self._observe(event)

    def _lost(self, reason: str, on_dead: Callable[[str], None]) -> None:
        """No model is left that could be served; at the start, `start` says so itself."""
        if self._providers:
            self._hopeless = True
            on_dead(reason)


def _unknown(entry: Entry, settings: Settings) -> ModelCard:
    """What is known of a model that was never open; its time is the catalog's."""
    created = 0
    if settings.models_file is not None:
        with suppress(OSError):
            created = int(settings.models_file.stat().st_mtime)
    return ModelCard(entry.name, entry.aliases, created)


def _start_error(error: WorkerError) -> StartError:
    """Why nothing can be served."""
    return error if isinstance(error, StartError) else EngineStartFailed(error.message)
