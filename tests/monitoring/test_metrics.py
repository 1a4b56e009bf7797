"""Metrics: counts that agree with each other, and a page that Prometheus can read."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from gguf_worker.events import (
    EngineBack,
    EngineLost,
    ModelFailed,
    ModelReady,
    ModelUnloaded,
    Outcome,
    PhaseDone,
    RequestDone,
    StepDone,
)
from gguf_worker.monitoring import Metrics
from tests.metrics_page import samples


@pytest.fixture
def metrics() -> Iterator[Metrics]:
    metrics = Metrics()
    yield metrics
    metrics.close()


def done(outcome: Outcome, **facts: Any) -> RequestDone:
    request = RequestDone(
        request_id="r",
        job_id="j",
        route="/v1/chat/completions",
        outcome=outcome,
        stream=True,
        seconds=2.0,
        queue_seconds=0.002,
        prefill_seconds=0.1,
        ttft_seconds=0.15,
        prompt_tokens=30,
        cached_tokens=10,
        completion_tokens=20,
    )
    return replace(request, **facts)


def step(**facts: Any) -> StepDone:
    event = StepDone(
        seconds=0.02,
        rows=3,
        running=3,
        waiting=2,
        kv_used=256,
        kv_total=1024,
        preempted=0,
        token_intervals=(0.004, 0.02, 0.02),
    )
    return replace(event, **facts)


def page(metrics: Metrics) -> dict[str, float]:
    return samples(metrics.render())


def test_a_finished_generation_is_counted_in_every_figure(metrics: Metrics) -> None:
    metrics.observe(done(Outcome.STOP))
    samples = page(metrics)
    assert samples['request_success_total{finished_reason="stop"}'] == 1
    assert samples['requests_total{outcome="stop",route="/v1/chat/completions"}'] == 1
    assert samples["e2e_request_latency_seconds_sum"] == 2.0
    assert samples["time_to_first_token_seconds_sum"] == 0.15
    assert samples["request_queue_time_seconds_sum"] == 0.002
    assert samples["request_prefill_time_seconds_sum"] == 0.1
    assert samples["request_prompt_tokens_sum"] == 30
    assert samples["request_generation_tokens_sum"] == 20
    assert samples["prompt_tokens_total"] == 30
    assert samples["prompt_tokens_cached_total"] == 10
    assert samples["generation_tokens_total"] == 20


def test_counts_of_requests_agree_with_each_other(metrics: Metrics) -> None:
    metrics.observe(done(Outcome.STOP))
    metrics.observe(done(Outcome.LENGTH))
    metrics.observe(done(Outcome.LENGTH))
    metrics.observe(done(Outcome.ERROR, code="overloaded", queue_seconds=None))
    metrics.observe(done(Outcome.CANCELLED, queue_seconds=None))
    metrics.observe(done(Outcome.CANCELLED, code="cancelled", queue_seconds=None))
    samples = page(metrics)

    def total(name: str) -> float:
        return sum(value for key, value in samples.items() if key.startswith(f"{name}{{"))

    success = total("request_success_total")
    assert success == 3
    assert success == samples["e2e_request_latency_seconds_count"]
    assert success == samples["request_generation_tokens_count"]
    assert total("requests_total") == success + total("errors_total") + total(
        "requests_cancelled_total"
    )
    assert samples['errors_total{code="overloaded"}'] == 1
    assert samples['requests_cancelled_total{cause="client"}'] == 1
    assert samples['requests_cancelled_total{cause="cancelled"}'] == 1


def test_tokens_of_requests_that_were_given_up_are_counted_too(metrics: Metrics) -> None:
    metrics.observe(done(Outcome.STOP))
    metrics.observe(done(Outcome.CANCELLED, queue_seconds=None, prompt_tokens=0))
    assert page(metrics)["generation_tokens_total"] == 40
    assert page(metrics)["prompt_tokens_total"] == 30


def test_a_list_of_models_is_no_generation(metrics: Metrics) -> None:
    metrics.observe(
        done(
            Outcome.STOP,
            route="/v1/models",
            queue_seconds=None,
            prefill_seconds=None,
            ttft_seconds=None,
        )
    )
    samples = page(metrics)
    assert samples['requests_total{outcome="stop",route="/v1/models"}'] == 1
    assert samples["e2e_request_latency_seconds_count"] == 0
    assert 'request_success_total{finished_reason="stop"}' not in samples


def test_an_answer_without_text_has_no_time_to_first_token(metrics: Metrics) -> None:
    metrics.observe(done(Outcome.STOP, ttft_seconds=None, completion_tokens=0))
    samples = page(metrics)
    assert samples["e2e_request_latency_seconds_count"] == 1
    assert samples["time_to_first_token_seconds_count"] == 0


def test_a_step_sets_the_gauges_and_times_every_token(metrics: Metrics) -> None:
    metrics.observe(step(preempted=2))
    samples = page(metrics)
    assert samples["num_requests_running"] == 3
    assert samples["num_requests_waiting"] == 2
    assert samples["kv_cache_usage_perc"] == 0.25
    assert samples["num_preemptions_total"] == 2
    assert samples["engine_step_seconds_count"] == 1
    assert samples["engine_step_rows_sum"] == 3
    assert samples['inter_token_latency_seconds_bucket{le="0.0025"}'] == 0
    assert samples['inter_token_latency_seconds_bucket{le="0.005"}'] == 1
    assert samples["inter_token_latency_seconds_count"] == 3


def test_a_sign_of_life_is_no_step(metrics: Metrics) -> None:
    metrics.observe(step())
    metrics.observe(step(rows=0, running=0, waiting=0, kv_used=0, kv_total=0, token_intervals=()))
    samples = page(metrics)
    assert samples["engine_step_seconds_count"] == 1
    assert samples["num_requests_running"] == 0
    assert samples["kv_cache_usage_perc"] == 0


def test_the_gauges_belong_to_the_steps_that_are_counted(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    def memory() -> dict[str, int]:  # asked in the middle of the page's making
        metrics.observe(step(running=2))
        return {}

    monkeypatch.setattr("gguf_worker.monitoring.metrics.resident_bytes", memory)
    metrics.observe(step(running=3))
    for count, running in ((1, 3), (2, 2)):
        samples = page(metrics)
        assert samples["engine_step_seconds_count"] == count
        assert samples["num_requests_running"] == running


def test_a_lost_engine_runs_nothing_and_holds_nothing(metrics: Metrics) -> None:
    metrics.observe(step())
    metrics.observe(EngineLost("signal", "killed by SIGKILL", interrupted=3, resubmitted=5))
    samples = page(metrics)
    assert samples['engine_lost_total{cause="signal"}'] == 1
    assert samples["num_requests_running"] == 0
    assert samples["num_requests_waiting"] == 5
    assert samples["kv_cache_usage_perc"] == 0
    metrics.observe(EngineBack(restarts=1, seconds=0.8))
    assert page(metrics)["engine_restarts_total"] == 1


def test_the_start_is_reported_by_phase(metrics: Metrics) -> None:
    metrics.observe(PhaseDone("load", 0.7))
    metrics.observe(PhaseDone("total", 2.5))
    samples = page(metrics)
    assert samples['cold_start_seconds{phase="load"}'] == 0.7
    assert samples['cold_start_seconds{phase="total"}'] == 2.5


def test_each_model_in_memory_is_named_until_it_leaves(metrics: Metrics) -> None:
    metrics.observe(ModelReady("one", "/a", 1.0, 512, 1, 512))
    metrics.observe(ModelReady("two", "/b", 0.5, 4096, 8, 32768))
    metrics.observe(ModelReady("one", "/a", 1.0, 1024, 1, 1024))
    metrics.observe(ModelUnloaded("two", "room"))
    metrics.observe(ModelUnloaded("two", "lost"))
    samples = page(metrics)
    assert [key for key in samples if key.startswith("model_info")] == [
        'model_info{context="1024",kv_cells="1024",model_name="one",sequences="1"}'
    ]
    assert samples["model_loads_total"] == 3
    assert samples['model_unloads_total{cause="room"}'] == 1


def test_the_gauges_are_of_all_engines_together_without_those_that_are_gone(
    metrics: Metrics,
) -> None:
    for model, running in (("a", 3), ("b", 5)):
        metrics.observe(step(model=model, running=running, kv_used=100, kv_total=1000))
    assert page(metrics)["num_requests_running"] == 8
    assert page(metrics)["kv_cache_usage_perc"] == pytest.approx(0.1)
    metrics.observe(ModelUnloaded("b", "room"))
    assert page(metrics)["num_requests_running"] == 3
    metrics.observe(EngineLost("signal", "", 0, 2, "a"))
    samples = page(metrics)
    assert (samples["num_requests_running"], samples["num_requests_waiting"]) == (0, 2)


def test_models_that_fail_are_counted_by_what_was_wrong(metrics: Metrics) -> None:
    metrics.observe(ModelFailed("a", "model_corrupt", "cut", 300.0))
    assert page(metrics)['model_failures_total{code="model_corrupt"}'] == 1


def test_memory_is_measured_when_the_page_is_made(metrics: Metrics) -> None:
    samples = page(metrics)
    assert samples['process_resident_memory_bytes{process="worker"}'] > 1_000_000
    assert samples['process_resident_memory_bytes{process="engine"}'] >= 0


def test_gpu_memory_is_measured_where_there_is_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = threading.Event()
    driver = SimpleNamespace(
        NVMLError=RuntimeError,
        nvmlInit=lambda: None,
        nvmlShutdown=closed.set,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetMemoryInfo=lambda gpu: SimpleNamespace(used=gpu + 1, total=(gpu + 1) * 10),
    )
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    metrics = Metrics()
    samples = page(metrics)
    metrics.close()
    assert samples['gpu_memory_used_bytes{gpu="1"}'] == 2
    assert samples['gpu_memory_total_bytes{gpu="1"}'] == 20
    assert closed.is_set()


def test_two_workers_in_one_process_count_apart(metrics: Metrics) -> None:
    metrics.observe(done(Outcome.STOP))
    other = Metrics()
    assert page(other)["generation_tokens_total"] == 0
    other.close()


def test_every_metric_on_the_page_is_described_and_none_else(metrics: Metrics) -> None:
    names = set()
    for line in metrics.render().splitlines():
        if line.startswith("# TYPE "):
            names.add(line.split()[2])
    assert names == {metric.name for metric in metrics.described}
    assert not [name for name in names if name.endswith("_created")]


def test_observing_from_many_threads_loses_nothing(metrics: Metrics) -> None:
    def work() -> None:
        for _ in range(500):
            metrics.observe(done(Outcome.STOP))
            metrics.observe(step())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    samples = page(metrics)
    assert samples["generation_tokens_total"] == 4 * 500 * 20
    assert samples["inter_token_latency_seconds_count"] == 4 * 500 * 3
