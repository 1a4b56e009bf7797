"""Statistics of repetitions: percentiles, medians with their spread, ratios of two contestants.

A measure has a name, and a number behind an @ where the same is measured at several sizes:
`tokens_per_second@8`. Pure; servers and scenarios are not known here.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Measures = Mapping[str, float]
"""The figures of one repetition, by name."""

Samples = Mapping[str, Sequence[float]]
"""The figures of all repetitions of one contestant, by name, in order of repetition."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A median with the smallest and the largest figure."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> Spread:
        return cls(statistics.median(figures), min(figures), max(figures))


def percentile(figures: Sequence[float], percent: float) -> float:
    """Return the smallest figure that at least `percent` percent of them do not exceed."""
    ranked = sorted(figures)
    return ranked[max(0, math.ceil(len(ranked) * percent / 100) - 1)]


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Spread | None:
    """Return ours divided by theirs, repetition by repetition; None where there is no pair.

    What slows the whole machine for a while cancels out.
    """
    pairs = [a / b for a, b in zip(ours, theirs, strict=False) if b]
    return Spread.of(pairs) if pairs else None


def at(measure: str, size: int) -> str:
    """Return the name of a measure at one size."""
    return f"{measure}@{size}"


def split(measure: str) -> tuple[str, int | None]:
    """Return a measure's own name, and its size if it has one."""
    name, _, size = measure.partition("@")
    return name, int(size) if size else None
