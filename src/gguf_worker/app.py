"""The composition root: settings become objects, started and closed in order. Nothing else builds.

`App.handle` is what RunPod's SDK calls for each job; `App.serve_http` is the other front door to the same
gateway. The SDK itself is unknown here.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from gguf_worker.api import Gateway, answer_job
from gguf_worker.config import Entry, Settings, interpreter_seconds, process_seconds
from gguf_worker.errors import StartError
from gguf_worker.events import Event, Observer, PhaseDone
from gguf_worker.models.store import Progress
from gguf_worker.monitoring import EventLog, Health, Metrics, bind_request
from gguf_worker.providers import ModelCard, Provider
from gguf_worker.serving import LoadedModel, served_models

log = logging.getLogger("gguf_worker.app")

_PROGRESS_SECONDS = 5.0


class App:
    """One worker: its model or models, the gateway, and who watches them.

    `start` blocks until a model answers, or raises StartError. `refuse` is the other way to begin: every
    job is answered with the reason. `close` ends the engine; it is safe at any time.

    `on_dead`: called, on another thread, when the engine is lost for good. `watch`: told every event, as the
    metrics, the health and the log are. `on_download` and `on_load` (a fraction) show long work.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        environ: Mapping[str, str],
        on_dead: Callable[[], None] = lambda: None,
        watch: Observer | None = None,
        on_download: Callable[[Progress], None] | None = None,
        on_load: Callable[[float], None] = lambda _: None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._environ = environ
        self._on_dead = on_dead
        self._on_download = on_download or _LoggedProgress(now)
        self._on_load = on_load
        self._now = now
        self._health = Health(now, engine_timeout=settings.engine_timeout)
        self._metrics = Metrics()
        self._observers: list[Observer] = [
            self._metrics.observe,
            self._health.observe,
            EventLog().observe,
        ]
        if watch is not None:
            self._observers.append(watch)
        self._models = served_models(settings, self._model, observe=self._observe)
        self._refusal: StartError | None = None
        self._closing: set[asyncio.Future[None]] = (
            set()
        )  # the loop itself keeps only weak references
        self._first = threading.Lock()  # taken by the first request, which is the cold one
        self._phases: dict[str, float] = {}
        self._begun = False
        self._gateway = Gateway(
            self._provider,
            self._cards,
            health=lambda: {**self._health.snapshot(), **self._models.facts()},
            metrics=self._metrics.render,
            observe=self._observe,
            cold=self._cold,
            now=now,
        )

    # Life

    def start(self) -> None:
        """Find the model, open it, and be ready; StartError says why not, and if it is worth a retry."""
        if not self._begun:
            self._begun = True
            before = interpreter_seconds()
            self._observe(PhaseDone("interpreter", before))
            self._observe(PhaseDone("imports", process_seconds() - before))
        self._health.starting()
        self._models.start(self._lost)
        self._health.ready()
        self._observe(PhaseDone("total", process_seconds()))

    def refuse(self, error: StartError) -> None:
        """Stay up without a model: every request gets this error. Cheaper than a loop of crashes."""
        log.error("the worker cannot serve and answers every job with: %s", error.message)
        self._refusal = error
        self._health.dead(error.message)
        self._models.close()

    def draining(self) -> None:
        """No new requests are expected; those that run may end."""
        self._health.draining()

    def close(self) -> None:
        self._models.close()
        self._metrics.close()

    @property
    def capacity(self) -> int:
        """Jobs to hold at once: what keeps the models busy."""
        return self._models.capacity

    @property
    def dead(self) -> bool:
        """What could be served was lost for good after a start that went well."""
        return self._models.dead

    # The front doors

    async def handle(self, job: dict[str, Any]) -> AsyncGenerator[Any, None]:
        """One RunPod job's items. The SDK wants this very function: an async generator, bound."""
        answer = answer_job(
            self._gateway, job, default_timeout=self._settings.request_timeout, now=self._now
        )
        task = asyncio.current_task()
        assert task is not None

        # A job cancelled while the SDK posts an item leaves this generator suspended until the garbage
        # collector comes by, and the request running. So the answer is closed when the job's task ends.
        def close(_: asyncio.Task[Any]) -> None:
            closing = asyncio.ensure_future(answer.aclose())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

        task.add_done_callback(close)
        try:
            with bind_request(job_id=str(job.get("id") or "unknown")):
                async with aclosing(answer) as items:
                    async for item in items:
                        yield item
        finally:
            task.remove_done_callback(close)

    def serve_http(self) -> None:
        """Serve HTTP until SIGTERM or SIGINT; running requests may end."""
        from gguf_worker.api.http import build_http, serve

        settings = self._settings
        health_port = settings.port_health if settings.port_health != settings.port else None
        app = build_http(
            self._gateway,
            api_keys=settings.api_keys,
            origins=settings.origins,
            health_port=health_port,
            state=lambda: self._health.state,
            default_timeout=settings.request_timeout,
            now=self._now,
        )
        serve(
            app,
            host=settings.host,
            port=settings.port,
            health_port=health_port,
            grace=settings.request_timeout,
            on_shutdown=self.draining,
        )

    # Parts

    def _model(
        self,
        settings: Settings,
        entry: Entry | None,
        observe: Observer,
        on_dead: Callable[[str], None],
    ) -> LoadedModel:
        return LoadedModel(
            settings,
            self._environ,
            entry=entry,
            observe=observe,
            on_download=self._on_download,
            on_load=self._on_load,
            on_dead=on_dead,
            now=self._now,
        )

    def _cards(self) -> Sequence[ModelCard]:
        if self._refusal is not None:
            # One instance for all jobs: it must not collect their frames.
            raise self._refusal.with_traceback(None)
        return self._models.cards()

    def _provider(self, name: str) -> Provider:
        return self._models.provider(name)

    def _cold(self, name: str) -> Mapping[str, float] | None:
        """What the loading of the model takes; else what the start took, for the first who asks."""
        first = self._first.acquire(blocking=False)
        loading = self._models.loaded_for(name)
        return self._phases if loading is None and first else loading

    def _lost(self, reason: str) -> None:
        self._health.dead(reason)
        self._on_dead()

    def _observe(self, event: Event) -> None:
        if isinstance(event, PhaseDone):
            self._phases[event.phase] = event.seconds
        for observer in self._observers:
            try:
                observer(event)
            except Exception:  # the observers' wall: their bug must not end a request
                log.exception("an observer failed on %s", type(event).__name__)


class _LoggedProgress:
    """Download progress for a log: a line every few seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._said_at = now()

    def __call__(self, progress: Progress) -> None:
        if self._now() - self._said_at < _PROGRESS_SECONDS:
            return
        self._said_at = self._now()
        log.info(
            "downloading %s: %.0f %% of %.2f GB, %.0f MB/s",
            progress.file,
            100 * progress.done_bytes / max(progress.total_bytes, 1),
            progress.total_bytes / 1e9,
            progress.bytes_per_second / 1e6,
        )
