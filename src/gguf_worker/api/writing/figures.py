"""An answer's own figures: what it cost, and how long it took."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from gguf_worker.generation import Usage


def usage_object(usage: Usage) -> dict[str, Any]:
    """Return the cost in tokens, as OpenAI's answers have it."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def metrics_object(
    usage: Usage,
    *,
    ttft_seconds: float | None,
    seconds: float,
    cold: Mapping[str, float] | None,
) -> dict[str, Any]:
    """Return an answer's times in milliseconds and its tokens per second.

    `cold`: the phases of the start that it paid for, in seconds; None if it paid for no start.
    """
    figures: dict[str, Any] = {
        "queue_ms": _milliseconds(usage.queue_seconds),
        "prefill_ms": _milliseconds(usage.prefill_seconds),
        "ttft_ms": _milliseconds(ttft_seconds),
        "total_ms": _milliseconds(seconds),
        "tokens_per_second": _rounded(usage.tokens_per_second, 2),
        "cold": cold is not None,
    }
    if cold is not None:
        figures["cold_start_seconds"] = {name: _rounded(took, 3) for name, took in cold.items()}
    return figures


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else _rounded(seconds * 1000, 1)


def _rounded(value: float | None, digits: int) -> float | None:
    """Return the value rounded; None for one that JSON cannot represent."""
    return round(value, digits) if value is not None and math.isfinite(value) else None
