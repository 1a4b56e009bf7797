"""The composition root: makes all objects from the settings, and starts and closes them in order.

`App.handle` is what RunPod's SDK calls for each job; `App.serve_http` is the other front door to
the same gateway. The SDK itself is not known here.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from gguf_worker.api import Gateway, answer_job
from gguf_worker.config import Settings, interpreter_seconds, process_seconds
from gguf_worker.errors import EngineStartFailed, StartError, as_start_errors
from gguf_worker.events import Event, Observer, PhaseDone
from gguf_worker.models.store import Progress
from gguf_worker.monitoring import ColdStart, EventLog, Health, Metrics, bind_request
from gguf_worker.providers import ModelCard, Provider
from gguf_worker.serving import DownloadLog, served_models

log = logging.getLogger("gguf_worker.app")


class App:
    """One worker: its model or models, the gateway, and the observers of its events.

    It begins with `start`, or with `refuse`, after which every job is answered with the reason.

    `on_dead`: called, on another thread, when the engine is lost for good. `watch`: one more
    observer, beside the metrics, the health and the log. `on_download` and `on_load` (a fraction)
    show long work.
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
        self._on_dead = on_dead
        self._now = now
        self._health = Health(now, engine_timeout=settings.engine_timeout)
        self._metrics = Metrics()
        self._cold_start = ColdStart()
        self._observers: list[Observer] = [
            self._cold_start.observe,
            self._metrics.observe,
            self._health.observe,
            EventLog().observe,
        ]
        if watch is not None:
            self._observers.append(watch)
        self._models = served_models(
            settings,
            environ,
            observe=self._observe,
            on_download=on_download or DownloadLog(now),
            on_load=on_load,
            now=now,
        )
        self._refusal: StartError | None = None
        # The loop itself keeps only weak references.
        self._closing: set[asyncio.Future[None]] = set()
        self._start_observed = False
        self._gateway = Gateway(
            self._provider,
            self._cards,
            health=lambda: {**self._health.snapshot(), **self._models.facts()},
            metrics=self._metrics.render,
            observe=self._observe,
            cold=lambda name: self._cold_start.phases_for(self._models.load_phases(name)),
            now=now,
        )

    # Life

    def start(self) -> None:
        """Find the model and open it; blocks until it answers. May be called again after an error.

        Raises StartError, which says if a retry can help.
        """
        if not self._start_observed:
            self._start_observed = True
            before = interpreter_seconds()
            self._observe(PhaseDone("interpreter", before))
            self._observe(PhaseDone("imports", process_seconds() - before))
        self._health.starting()
        self._start_models()
        self._health.ready()
        self._observe(PhaseDone("total", process_seconds()))

    def _start_models(self) -> None:
        try:
            with as_start_errors("starting the worker"):
                self._models.start(self._become_dead)
        except StartError:
            raise
        except Exception as error:  # an error boundary: what nobody foresaw may pass elsewhere
            log.exception("the start failed for a reason that was not foreseen")
            raise EngineStartFailed(
                f"The start failed, and the log says where: {type(error).__name__}."
            ) from error

    def refuse(self, error: StartError) -> None:
        """Stay up without a model, and answer every request with this error.

        That costs less than a loop of crashes, each of which downloads and loads the model again.
        """
        log.error("the worker cannot serve and answers every job with: %s", error.message)
        self._refusal = error
        self._health.dead(error.message)
        self._models.close()

    def draining(self) -> None:
        """Show that no new requests are expected; running ones may end."""
        self._health.draining()

    def close(self) -> None:
        """End the engines. Safe at any time."""
        self._models.close()
        self._metrics.close()

    @property
    def capacity(self) -> int:
        """Jobs to hold at once: enough to keep the models busy."""
        return self._models.capacity

    @property
    def dead(self) -> bool:
        """True if all that could be served was lost for good after a good start."""
        return self._models.dead

    # The front doors

    async def handle(self, job: dict[str, Any]) -> AsyncGenerator[Any, None]:
        """Yield the items of one RunPod job.

        The SDK has to get this very method: it inspects whether it is an async generator function.
        """
        answer = answer_job(
            self._gateway, job, default_timeout=self._settings.request_timeout, now=self._now
        )
        task = asyncio.current_task()
        assert task is not None

        # If a job is cancelled while the SDK posts an item, this generator stays suspended until it
        # is garbage-collected, and the request goes on. So the answer is closed when the job's task
        # ends.
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
            keep_alive=settings.stream_keep_alive,
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

    def _cards(self) -> Sequence[ModelCard]:
        if self._refusal is not None:
            # The instance is raised for all jobs, and must not collect their frames.
            raise self._refusal.with_traceback(None)
        return self._models.cards()

    def _provider(self, name: str) -> Provider:
        return self._models.provider(name)

    def _become_dead(self, reason: str) -> None:
        self._health.dead(reason)
        self._on_dead()

    def _observe(self, event: Event) -> None:
        for observer in self._observers:
            try:
                observer(event)
            except Exception:  # an error boundary: an observer's bug must not end a request
                log.exception("an observer failed on %s", type(event).__name__)
