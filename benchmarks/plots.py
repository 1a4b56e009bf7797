"""Draw a result file: speed and first tokens over concurrency, the shared prefix's wall time.

    python -m benchmarks.plots RESULT.json     writes RESULT-*.png beside it

A program of its own, because matplotlib lives with the peers and not with the worker.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measures import Samples, Spread, split

_DPI = 120
_INCHES = (7.0, 4.2)


@dataclass(frozen=True, slots=True)
class Line:
    """One contestant's spreads, by size."""

    name: str
    sizes: tuple[int, ...]
    spreads: tuple[Spread, ...]


def lines(samples: Mapping[str, Samples], measure: str) -> list[Line]:
    """Return one line for each contestant that has the measure, over its sizes."""
    found = []
    for name, own in samples.items():
        sizes = {split(key)[1]: figures for key, figures in own.items() if split(key)[0] == measure}
        points = sorted((size, figures) for size, figures in sizes.items() if size is not None)
        if points:
            spreads = tuple(Spread.of(figures) for _, figures in points)
            found.append(Line(name, tuple(size for size, _ in points), spreads))
    return found


def draw(result: Path) -> list[Path]:
    """Draw the plots that the result has figures for, and return their files."""
    whole = json.loads(result.read_text())
    scenarios, subtitle = whole["scenarios"], _subtitle(whole["facts"])
    drawn = []
    if own := scenarios.get("own", {}).get("samples"):
        for measure, label in (
            ("tokens_per_second", "tokens per second"),
            ("ttft_p95", "time to first token, p95, seconds"),
        ):
            path = result.with_name(f"{result.stem}-own-{measure}.png")
            _over_sizes(path, lines(own, measure), label, subtitle)
            drawn.append(path)
    if prefix := scenarios.get("prefix", {}).get("samples"):
        path = result.with_name(f"{result.stem}-prefix-wall.png")
        walls = {name: own["wall"] for name, own in prefix.items()}
        _bars(path, walls, "cold shared prefix, wall seconds", subtitle)
        drawn.append(path)
    return drawn


def _subtitle(facts: Mapping[str, Any]) -> str:
    return f"{facts['model']}, {facts['threads']} threads, {facts['cpu']}, commit {facts['commit']}"


def _over_sizes(path: Path, drawn: Sequence[Line], label: str, subtitle: str) -> None:
    from matplotlib.figure import Figure  # type: ignore[import-not-found, unused-ignore]

    figure = Figure(figsize=_INCHES, layout="constrained")
    axes = figure.subplots()
    for line in drawn:
        medians = [spread.median for spread in line.spreads]
        below = [spread.median - spread.low for spread in line.spreads]
        above = [spread.high - spread.median for spread in line.spreads]
        axes.errorbar(line.sizes, medians, yerr=(below, above), marker="o", label=line.name)
    axes.set_xscale("log", base=2)
    sizes = sorted({size for line in drawn for size in line.sizes})
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("requests at once, own prompts")
    axes.set_ylabel(label)
    axes.set_title(subtitle, fontsize="small")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=_DPI)


def _bars(path: Path, walls: Mapping[str, Sequence[float]], label: str, subtitle: str) -> None:
    from matplotlib.figure import Figure  # type: ignore[import-not-found, unused-ignore]

    figure = Figure(figsize=_INCHES, layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(list(walls), [statistics.median(figures) for figures in walls.values()])
    axes.bar_label(bars, fmt="%.1f", padding=3)
    axes.invert_yaxis()
    axes.set_xlabel(label)
    axes.set_title(subtitle, fontsize="small")
    figure.savefig(path, dpi=_DPI)


if __name__ == "__main__":
    for path in draw(Path(sys.argv[1])):
        print(path.name)
