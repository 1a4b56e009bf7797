"""The composition root: settings become objects, started and closed in order. Nothing else builds.

`App.handle` is what RunPod's SDK calls for each job; `App.serve_http` is the other front door to the same
gateway. The SDK itself is unknown here.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, closing, contextmanager
from pathlib import Path
from typing import Any

from gguf_worker.api import Gateway, ModelCard, answer_job
from gguf_worker.config import Settings, interpreter_seconds, probe, process_seconds
from gguf_worker.engine import EngineClient, EngineInfo, EngineSpec
from gguf_worker.errors import EngineUnavailable, StartError
from gguf_worker.events import Event, ModelReady, Observer, PhaseDone
from gguf_worker.models import (
    Adapter,
    Check,
    Dialect,
    Fit,
    Hub,
    Progress,
    ReadAhead,
    Store,
    StoredModel,
    Verification,
    WebFile,
    adapters_for,
    fit,
    parse_reference,
    with_template,
    with_weights_of,
)
from gguf_worker.monitoring import EventLog, Health, Metrics, bind_request
from gguf_worker.providers import Local, Provider, family_for

log = logging.getLogger("gguf_worker.app")

_PROGRESS_SECONDS = 5.0
_FALLBACK_STORE = Path("~/.cache/gguf-worker")


class App:
    """One worker: one model, its engine, the gateway, and who watches them.

    `start` blocks until the model answers, or raises StartError. `refuse` is the other way to begin: every
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
        self._store: Store | None = None
        self._engine: EngineClient | None = None
        self._provider: Provider | None = None
        self._card: ModelCard | None = None
        self._refusal: StartError | None = None
        self._closing: set[asyncio.Future[None]] = (
            set()
        )  # the loop itself keeps only weak references
        self._first = threading.Lock()  # taken by the first request, which is the cold one
        self._phases: dict[str, float] = {}
        self._begun = False
        self._sequences = 1
        self._spare = 2  # jobs to hold beyond those that are computed
        self._gateway = Gateway(
            self._ready_provider,
            self._ready_card,
            health=self._health.snapshot,
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
        # A file that is found to be wrong while it is loaded is fetched again, once.
        if not self._open(beside=self._settings.verify == "full"):
            self._open(beside=False)

    def _open(self, *, beside: bool) -> bool:
        """Find the model and open it; False where a stored file was not as it was published.

        `beside`: stored files are read byte by byte while the engine loads them, and not before.
        """
        began = self._now()
        stored, adapters = self._resolve("stamp" if beside else self._settings.verify)
        resolved = self._now()
        self._observe(PhaseDone("resolve", resolved - began))
        machine = probe(self._environ)
        sizes = fit(
            self._settings,
            machine,
            with_weights_of(stored.header, adapters),
            gpu_offload=bool(machine.gpus),
        )
        log.info("sizes: %s", sizes.explain())
        ahead = ReadAhead(stored.files, window=machine.memory_available // 2)

        def loading(fraction: float) -> None:
            ahead.reached(fraction)
            self._on_load(fraction)

        engine = EngineClient(
            engine_spec(self._settings, stored.path, sizes, adapters),
            observe=self._observe,
            silence=self._settings.engine_timeout,
            progress=loading,
            on_dead=self._engine_dead,
            now=self._now,
        )
        self._engine = engine
        places = (*stored.places, *(place for each in adapters for place in each.places))
        check = Verification(places if beside else (), on_fault=engine.close, now=self._now)
        try:
            info = engine.start()
        except StartError:
            engine.close()
            if check.fault() is None:
                raise
        finally:
            ahead.close()
        if (fault := check.fault()) is not None:
            log.warning("the engine was ended, because %s", fault)
            return False
        if beside and places:
            self._observe(PhaseDone("verify", check.seconds))
        if sizes.gpu_layers.value != 0 and not info.gpu_offload:
            log.warning(
                "there is a GPU, but llama-cpp-python was built without CUDA: the model runs on the "
                "CPU. Build with ACCEL=cuda."
            )
        # No more than may wait: a job that was taken and then refused as overloaded has failed.
        self._spare = min(max(2, info.sequences // 4), sizes.max_queue.value)
        self._announce(stored, info, sizes.max_queue.value, self._now() - resolved)
        return True

    def refuse(self, error: StartError) -> None:
        """Stay up without a model: every request gets this error. Cheaper than a loop of crashes."""
        log.error("the worker cannot serve and answers every job with: %s", error.message)
        self._refusal = error
        self._health.dead(error.message)
        self._close_store()

    def draining(self) -> None:
        """No new requests are expected; those that run may end."""
        self._health.draining()

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()
        self._close_store()
        self._metrics.close()

    @property
    def capacity(self) -> int:
        """Jobs to hold at once: all that are computed together, and a few that are ready to follow."""
        return self._sequences + self._spare

    @property
    def dead(self) -> bool:
        """The engine was lost for good after a start that went well."""
        return self._engine is not None and self._engine.dead is not None

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

    def _resolve(self, check: Check) -> tuple[StoredModel, tuple[Adapter, ...]]:
        settings = self._settings
        self._close_store()  # of a start that failed
        with closing(_hub(settings)) as hub:
            self._store = _store(settings, self._environ, hub, self._on_download, check)
            stored = self._store.ensure(
                parse_reference(settings.model),
                revision=settings.model_revision,
                sha256=settings.model_sha256,
            )
            stored = with_template(self._store, stored, settings.chat_template)
            return stored, adapters_for(self._store, stored, settings.lora_adapters)

    def _close_store(self) -> None:
        """The stored model is in use no more."""
        if self._store is not None:
            self._store.close()
            self._store = None

    def _announce(
        self, stored: StoredModel, info: EngineInfo, max_queue: int, engine_seconds: float
    ) -> None:
        header = stored.header
        dialect = Dialect(header.chat_template, header.bos_token, header.eos_token)
        self._card = _card(self._settings, stored, info)
        assert self._engine is not None
        self._provider = Local(
            self._engine,
            dialect,
            family=family_for(header.chat_template, header.architecture),
            special=dict(info.special),
            infill=info.infill,
            borders=not info.rollback,
            most_answers=info.sequences + max_queue,
            purpose="" if info.generates else _purpose(info),
        )
        self._sequences = info.sequences
        process = engine_seconds - info.load_seconds - info.warmup_seconds
        self._observe(PhaseDone("engine", process))
        self._observe(PhaseDone("load", info.load_seconds))
        self._observe(PhaseDone("warmup", info.warmup_seconds))
        ready = ModelReady(
            name=self._card.name,
            path=str(stored.path),
            seconds=engine_seconds,
            context=info.context,
            sequences=info.sequences,
            kv_cells=info.kv_cells,
            pooling=info.pooling,
        )
        self._observe(ready)
        self._health.ready()
        self._observe(PhaseDone("total", process_seconds()))

    def _ready_provider(self) -> Provider:
        self._check()
        assert self._provider is not None
        return self._provider

    def _ready_card(self) -> ModelCard:
        self._check()
        assert self._card is not None
        return self._card

    def _check(self) -> None:
        if self._refusal is not None:
            # One instance for all jobs: it must not collect their frames.
            raise self._refusal.with_traceback(None)
        if self._provider is None or self._card is None:
            raise EngineUnavailable("The model is still being loaded.", retry_after=5.0)

    def _cold(self) -> Mapping[str, float] | None:
        """What the start took, for the first who asks."""
        return self._phases if self._first.acquire(blocking=False) else None

    def _engine_dead(self, reason: str) -> None:
        if self._provider is None:
            return  # a start that failed: `start` says so itself
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


def engine_spec(
    settings: Settings, path: Path, sizes: Fit, adapters: Sequence[Adapter] = ()
) -> EngineSpec:
    """What the engine of this worker is opened with."""
    return EngineSpec(
        path=str(path),
        context=sizes.context.value,
        sequences=sizes.sequences.value,
        kv_cells=sizes.kv_cells.value,
        gpu_layers=sizes.gpu_layers.value,
        kv_type=sizes.kv_type.value,
        flash_attention=sizes.flash_attention.value,
        threads=sizes.threads.value,
        batch_size=sizes.batch_size.value,
        ubatch_size=sizes.ubatch_size.value,
        max_queue=sizes.max_queue.value,
        idle_sequences=sizes.idle_sequences.value,
        unified=sizes.kv_layout.value == "unified",
        prefill_chunk=sizes.prefill_chunk.value,
        mixing=sizes.step_mixing.value,
        stream_interval=settings.stream_interval,
        pooling=sizes.purpose.pooling,
        generates=sizes.purpose.generates,
        causal=sizes.purpose.causal,
        adapters=tuple((str(each.header.path), each.scale) for each in adapters),
    )


def _card(settings: Settings, stored: StoredModel, info: EngineInfo) -> ModelCard:
    """The name to serve under: the one set, else MODEL as written, else the file's own name."""
    stem, written = stored.path.stem, settings.model
    if isinstance(address := parse_reference(written), WebFile):
        written = str(address)  # without its query, which may be a secret
    by_default = stem if written.endswith(stored.path.name) else written
    names = dict.fromkeys((settings.served_model_name or by_default, written, stem))
    name, *aliases = names
    return ModelCard(
        name=name,
        aliases=tuple(aliases),
        created=int(stored.path.stat().st_mtime),
        context=info.context,
        parameters=info.parameters,
        quantisation=stored.header.quantization,
    )


def _purpose(info: EngineInfo) -> str:
    """What a model is for that writes no text."""
    return "scores of documents" if info.pooling == "rank" else "embeddings"


@contextmanager
def opened_store(
    settings: Settings, environ: Mapping[str, str], progress: Callable[[Progress], None]
) -> Iterator[Store]:
    """The models that the settings lead to, and the Hub behind them; `progress` as Store has it."""
    with (
        closing(_hub(settings)) as hub,
        closing(_store(settings, environ, hub, progress, settings.verify)) as store,
    ):
        yield store


def _hub(settings: Settings) -> Hub:
    token = settings.hf_token.get_secret_value() if settings.hf_token else None
    return Hub(settings.hf_endpoint, token)


def _store(
    settings: Settings,
    environ: Mapping[str, str],
    hub: Hub,
    progress: Callable[[Progress], None],
    check: Check,
) -> Store:
    return Store(
        store_root(settings.volume_path),
        hub,
        progress,
        caches=_caches(settings.volume_path, environ),
        check=check,
        limit=_bytes(settings.volume_max_gb),
        offline=settings.hf_hub_offline,
    )


def _bytes(gigabytes: float | None) -> int | None:
    return None if gigabytes is None else int(gigabytes * 1e9)


def store_root(volume: Path) -> Path:
    """The volume, or where there is none a place that lasts as long as this machine's disk."""
    if volume.is_dir():
        return volume / "gguf-worker"
    return _FALLBACK_STORE.expanduser()


def _caches(volume: Path, environ: Mapping[str, str]) -> list[Path]:
    """Where models may lie in the Hub's own layout: RunPod's cached models, and what the user names."""
    named = [environ.get("HF_HUB_CACHE"), environ.get("HF_HOME") and f"{environ['HF_HOME']}/hub"]
    return [volume / "huggingface-cache" / "hub", *(Path(each) for each in named if each)]


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
