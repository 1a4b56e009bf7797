"""An answer's own figures."""

from __future__ import annotations

from gguf_worker.api.writing import metrics_object
from gguf_worker.generation import Usage


def test_figures_are_rounded_and_never_nan() -> None:
    usage = Usage(5, 11, queue_seconds=0.00123456, prefill_seconds=float("nan"), seconds=2.0)
    assert metrics_object(usage, ttft_seconds=None, seconds=1.23456, cold={"load": 1.0005}) == {
        "queue_ms": 1.2,
        "prefill_ms": None,
        "ttft_ms": None,
        "total_ms": 1234.6,
        "tokens_per_second": 5.0,
        "cold": True,
        "cold_start_seconds": {"load": 1.0},
    }
