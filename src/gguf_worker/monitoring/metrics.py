"""Prometheus metrics, made from events.

Names and buckets are vLLM's, with our prefix; the buckets are finer at the low end. Counts of
requests and tokens come from RequestDone alone, so they always agree with each other; gauges and
the time between tokens come from the engine's steps. Nothing here is global.
"""

from __future__ import annotations

import platform
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from gguf_worker import __version__
from gguf_worker.events import (
    EngineBack,
    EngineLost,
    Event,
    ModelFailed,
    ModelReady,
    ModelUnloaded,
    Outcome,
    PhaseDone,
    RequestDone,
    StepDone,
)
from gguf_worker.monitoring.memory_usage import GpuReader, resident_bytes

PREFIX = "gguf_worker_"

# fmt: off
TTFT = (.001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160,
        640, 2560)
BETWEEN_TOKENS = (.001, .0025, .005, .01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5, 5,
                  7.5, 10, 20, 40, 80)
LATENCY = (.001, .005, .01, .025, .05, .1, .2, .3, .5, .8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40,
           50, 60, 120, 240, 480, 960, 1920, 7680)
STEP = (.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30)
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000,
          200_000)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024, 2_048, 4_096)
# fmt: on

_STEPS_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class MetricDescription:
    """A description of one metric, for people: its name on the page, kind, labels and meaning."""

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str


class Metrics:
    """The worker's metrics. Thread-safe."""

    def __init__(self) -> None:
        # The library would add a `_created` series to each metric; only this package uses the
        # library.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self._gpus = GpuReader()
        self._lock = threading.Lock()
        self._steps: list[StepDone] = []  # not counted yet
        self._newest_steps: dict[str, StepDone] = {}  # the newest of each engine
        self._shown = True  # the newest steps are on the gauges
        self._models: dict[str, tuple[str, ...]] = {}  # the labels of those in memory
        self.described: list[MetricDescription] = []
        self._declare_requests()
        self._declare_engine()
        self._declare_worker()

    def observe(self, event: Event) -> None:
        """Count an event; a step takes some microseconds."""
        match event:
            case StepDone():
                self._step(event)
            case RequestDone():
                self._request(event)
            case PhaseDone():
                self._cold_start.labels(event.phase).set(event.seconds)
            case ModelReady():
                self._model_ready(event)
            case ModelUnloaded():
                self._model_unloaded(event)
            case ModelFailed():
                self._model_failures.labels(event.code).inc()
            case EngineLost():
                self._engine_lost(event)
            case EngineBack():
                self._restarts.inc()

    def render(self) -> str:
        """Return all metrics in Prometheus' text format, with memory as it is now."""
        self._count_steps()
        for process, size in resident_bytes().items():
            self._resident.labels(process).set(size)
        for gpu in self._gpus.read():
            self._gpu_used.labels(str(gpu.index)).set(gpu.used_bytes)
            self._gpu_total.labels(str(gpu.index)).set(gpu.total_bytes)
        return generate_latest(self._registry).decode()

    def close(self) -> None:
        self._gpus.close()

    def _step(self, step: StepDone) -> None:
        if step.preempted:
            self._preemptions.inc(step.preempted)
        with self._lock:
            self._newest_steps[step.model] = step
            self._shown = False
            if step.rows:
                self._steps.append(step)
            full = len(self._steps) >= _STEPS_AT_ONCE
        if full:
            self._count_steps()

    def _count_steps(self) -> None:
        """Put the collected steps into the histograms: in a batch that is several times cheaper.

        The gauges are set in the same call, from the newest steps, so that they agree with the
        histograms.
        """
        with self._lock:
            steps, self._steps = self._steps, []
            newest = [] if self._shown else list(self._newest_steps.values())
            self._shown = True
        if newest:
            self._set_gauges(newest)
        for step in steps:
            for _ in range(step.steps):  # short steps are reported together, and are about equal
                self._step_seconds.observe(step.seconds / step.steps)
                self._rows.observe(step.rows / step.steps)
            for interval in step.token_intervals:
                self._between_tokens.observe(interval)

    def _set_gauges(self, newest: Sequence[StepDone]) -> None:
        """Set the gauges to the sums of all engines."""
        self._running.set(sum(step.running for step in newest))
        self._waiting.set(sum(step.waiting for step in newest))
        total = max(sum(step.kv_total for step in newest), 1)
        self._kv_usage.set(sum(step.kv_used for step in newest) / total)
        self._kv_cached.set(sum(step.kv_cached for step in newest) / total)

    def _request(self, request: RequestDone) -> None:
        self._requests.labels(request.route, request.outcome).inc()
        self._prompt_tokens.inc(request.prompt_tokens)
        self._cached_tokens.inc(request.cached_tokens)
        self._generation_tokens.inc(request.completion_tokens)
        match request.outcome:
            case Outcome.ERROR:
                self._errors.labels(request.code or "internal_error").inc()
            case Outcome.CANCELLED:
                self._cancelled.labels(request.code or "client").inc()
            case Outcome.STOP | Outcome.LENGTH | Outcome.TOOL_CALLS if (
                request.queue_seconds is not None
            ):
                self._generation(request)

    def _generation(self, request: RequestDone) -> None:
        """Count a finished generation; lists and health reports have no such figures."""
        self._success.labels(request.outcome).inc()
        self._end_to_end.observe(request.seconds)
        self._prompt_length.observe(request.prompt_tokens)
        self._generation_length.observe(request.completion_tokens)
        for histogram, seconds in (
            (self._queue_time, request.queue_seconds),
            (self._prefill_time, request.prefill_seconds),
            (self._ttft, request.ttft_seconds),
        ):
            if seconds is not None:
                histogram.observe(seconds)

    def _model_ready(self, model: ModelReady) -> None:
        self._load_seconds.set(model.seconds)
        self._loads.inc()
        self._remove_model(model.name)
        labels = (model.name, str(model.context), str(model.sequences), str(model.kv_cells))
        self._models[model.name] = labels
        self._model.labels(*labels).set(1)

    def _model_unloaded(self, model: ModelUnloaded) -> None:
        self._unloads.labels(model.cause).inc()
        self._remove_model(model.name)
        self._forget(model.name)

    def _remove_model(self, name: str) -> None:
        if (labels := self._models.pop(name, None)) is not None:
            self._model.remove(*labels)

    def _forget(self, model: str) -> None:
        """Remove the engine of a model, which is gone, from the gauges."""
        self._count_steps()
        with self._lock:
            self._newest_steps.pop(model, None)
            newest = list(self._newest_steps.values())
        self._set_gauges(newest)

    def _engine_lost(self, loss: EngineLost) -> None:
        self._lost.labels(loss.cause).inc()
        self._forget(loss.model)
        self._waiting.inc(loss.resubmitted)

    def _declare_requests(self) -> None:
        self._requests = self._counter(
            "requests_total", "Calls that ended, of every kind.", "route", "outcome"
        )
        self._success = self._counter(
            "request_success_total", "Generations that ended well.", "finished_reason"
        )
        self._errors = self._counter("errors_total", "Calls that ended in an error.", "code")
        self._cancelled = self._counter(
            "requests_cancelled_total", "Calls that were given up before their end.", "cause"
        )
        self._ttft = self._histogram(
            "time_to_first_token_seconds", "From arrival to the first text.", TTFT
        )
        self._between_tokens = self._histogram(
            "inter_token_latency_seconds",
            "Between two tokens of one request, in the engine.",
            BETWEEN_TOKENS,
        )
        self._end_to_end = self._histogram(
            "e2e_request_latency_seconds", "From arrival to the end of the answer.", LATENCY
        )
        self._queue_time = self._histogram(
            "request_queue_time_seconds", "Waiting for a place in the batch.", LATENCY
        )
        self._prefill_time = self._histogram(
            "request_prefill_time_seconds", "Computing the prompt.", LATENCY
        )
        self._prompt_length = self._histogram(
            "request_prompt_tokens", "Prompt tokens of a generation.", TOKENS
        )
        self._generation_length = self._histogram(
            "request_generation_tokens", "Generated tokens of a generation.", TOKENS
        )
        self._prompt_tokens = self._counter(
            "prompt_tokens_total", "Prompt tokens, those found in the cache included."
        )
        self._cached_tokens = self._counter(
            "prompt_tokens_cached_total", "Prompt tokens that did not have to be computed."
        )
        self._generation_tokens = self._counter(
            "generation_tokens_total", "Generated tokens, counted when their request ends."
        )

    def _declare_engine(self) -> None:
        self._running = self._gauge("num_requests_running", "Requests in the batch.")
        self._waiting = self._gauge("num_requests_waiting", "Requests waiting for a place in it.")
        self._kv_usage = self._gauge(
            "kv_cache_usage_perc", "KV cache that running requests hold; 1 is full."
        )
        self._kv_cached = self._gauge(
            "kv_cache_reusable_perc", "KV cache of ended requests, kept until others need it."
        )
        self._preemptions = self._counter(
            "num_preemptions_total", "Sequences put back because the KV cache was full."
        )
        self._step_seconds = self._histogram(
            "engine_step_seconds", "One step of the engine: plan, compute, sample.", STEP
        )
        self._rows = self._histogram(
            "engine_step_rows", "Tokens computed in one step, of prompts and of answers.", ROWS
        )
        self._lost = self._counter(
            "engine_lost_total", "Engine processes that died or were killed.", "cause"
        )
        self._restarts = self._counter(
            "engine_restarts_total", "Engine processes that replaced a lost one."
        )

    def _declare_worker(self) -> None:
        self._model = self._gauge(
            "model_info",
            "1 for each model in memory.",
            "model_name",
            "context",
            "sequences",
            "kv_cells",
        )
        self._load_seconds = self._gauge(
            "model_load_seconds", "Loading the model that was loaded last."
        )
        self._loads = self._counter("model_loads_total", "Models that were loaded into memory.")
        self._unloads = self._counter(
            "model_unloads_total",
            "Models that left memory: for another's room, for nobody asked, or with a lost engine.",
            "cause",
        )
        self._model_failures = self._counter(
            "model_failures_total",
            "Models of a catalog that could not be loaded, or were lost.",
            "code",
        )
        self._cold_start = self._gauge(
            "cold_start_seconds", "Phases of the worker's start.", "phase"
        )
        self._resident = self._gauge(
            "process_resident_memory_bytes",
            "Resident memory: of the worker's own process, of all engines' together.",
            "process",
        )
        self._gpu_used = self._gauge("gpu_memory_used_bytes", "GPU memory in use.", "gpu")
        self._gpu_total = self._gauge("gpu_memory_total_bytes", "GPU memory.", "gpu")
        build = self._gauge(
            "build_info", "1 for the versions that run.", "version", "llama_cpp_python", "python"
        )
        build.labels(__version__, _version_of("llama-cpp-python"), platform.python_version()).set(1)

    def _counter(self, name: str, help: str, *labels: str) -> Counter:
        self._describe(name, "counter", labels, help)
        return Counter(PREFIX + name, help, labels, registry=self._registry)

    def _gauge(self, name: str, help: str, *labels: str) -> Gauge:
        self._describe(name, "gauge", labels, help)
        return Gauge(PREFIX + name, help, labels, registry=self._registry)

    def _histogram(self, name: str, help: str, buckets: Sequence[float]) -> Histogram:
        self._describe(name, "histogram", (), help)
        return Histogram(PREFIX + name, help, buckets=buckets, registry=self._registry)

    def _describe(self, name: str, kind: str, labels: tuple[str, ...], help: str) -> None:
        self.described.append(MetricDescription(PREFIX + name, kind, labels, help))


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
