"""Figures of repetitions: percentiles, medians with their spread, and ratios between two contestants.

A measure has a name, and a number behind an @ where the same is measured at several sizes:
`tokens_per_second@8`. Pure: knows neither servers nor scenarios.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Measures = Mapping[str, float]
"""One repetition: figures by name."""

Samples = Mapping[str, Sequence[float]]
"""All repetitions of one contestant: figures by name, in order of repetition."""


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
    """The smallest figure that at least so many percent of them do not exceed."""
    ranked = sorted(figures)
    return ranked[max(0, math.ceil(len(ranked) * percent / 100) - 1)]


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Spread | None:
    """Ours by theirs, repetition by repetition: what slows the whole machine for a while falls out."""
    pairs = [a / b for a, b in zip(ours, theirs, strict=False) if b]
    return Spread.of(pairs) if pairs else None


def at(measure: str, size: int) -> str:
    return f"{measure}@{size}"


def split(measure: str) -> tuple[str, int | None]:
    """A measure's own name, and its size if it has one."""
    name, _, size = measure.partition("@")
    return name, int(size) if size else None
