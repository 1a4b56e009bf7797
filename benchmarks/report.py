"""A run's results as tables for people and as a file for programs.

Servers are not known here, only figures by scenario, contestant and measure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.acceptance import Verdict
from benchmarks.measures import Samples, Spread, ratio, split

_UNITS = {
    "tokens_per_second": ("tokens/s", 1.0),
    "tokens": ("tokens", 1.0),
    "wall": ("wall, s", 1.0),
    "ttft_p50": ("TTFT p50, ms", 1e3),
    "ttft_p95": ("TTFT p95, ms", 1e3),
    "late_ttft_p95": ("TTFT p95 of the late, ms", 1e3),
    "gap_p50": ("between tokens p50, ms", 1e3),
    "gap_p99": ("between tokens p99, ms", 1e3),
    "gap_max": ("between tokens, longest, ms", 1e3),
    "mb_per_second": ("MB/s", 1.0),
    "processor_seconds": ("processor time, s/GB", 1.0),
    "received_mb_per_second": ("receiving alone, MB/s", 1.0),
    "receiving_processor_seconds": ("receiving alone, processor time, s/GB", 1.0),
    "limited_mb_per_second": ("MB/s at 20 MB/s a connection", 1.0),
    "reused": ("reused share of tokens", 1.0),
}
"""Labels of measures, each with the factor that its figures are multiplied by."""


@dataclass(slots=True)
class Outcome:
    """The results of one scenario.

    `reference` is the contestant that the others are compared with; `notes` say why a contestant
    has no figures, or fewer.
    """

    title: str
    reference: str
    samples: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def add(self, contestant: str, measures: Mapping[str, float]) -> None:
        """Add one more repetition of a contestant."""
        own = self.samples.setdefault(contestant, {})
        for measure, figure in measures.items():
            own.setdefault(measure, []).append(figure)


def tables(outcomes: Mapping[str, Outcome]) -> str:
    """Return a table for each scenario."""
    return "\n\n".join(_table(name, outcome) for name, outcome in outcomes.items())


def _table(name: str, outcome: Outcome) -> str:
    contestants = list(outcome.samples)
    head = ["", *contestants]
    rows = [
        [
            _label(measure),
            *(_cell(outcome, contestant, measure) for contestant in contestants),
        ]
        for measure in _measures(outcome.samples)
    ]
    lines = [f"{outcome.title} ({name})", *_aligned([head, *rows])]
    lines += [f"  {contestant}: {note}" for contestant, note in outcome.notes.items()]
    return "\n".join(lines)


def _measures(samples: Mapping[str, Samples]) -> list[str]:
    names = dict.fromkeys(measure for own in samples.values() for measure in own)
    kinds = list(dict.fromkeys(split(name)[0] for name in names))
    return sorted(names, key=lambda name: (kinds.index(split(name)[0]), split(name)[1] or 0))


def _label(measure: str) -> str:
    name, size = split(measure)
    shown, _ = _UNITS.get(name, (name.replace("_us", ", µs"), 1.0))
    return shown if size is None else f"{shown}, {size} at once"


def _cell(outcome: Outcome, contestant: str, measure: str) -> str:
    """Return a median with its spread.

    For all but the reference, the quotient of the reference's figures and these follows.
    """
    figures = outcome.samples[contestant].get(measure)
    if not figures:
        return "-"
    _, scale = _UNITS.get(split(measure)[0], ("", 1.0))
    text = _shown(Spread.of([figure * scale for figure in figures]))
    if contestant == outcome.reference:
        return text
    by = ratio(outcome.samples.get(outcome.reference, {}).get(measure, ()), figures)
    return f"{text}  ×{by.median:.2f}" if by else text


def _shown(spread: Spread) -> str:
    if spread.low == spread.high:
        return _number(spread.median)
    return f"{_number(spread.median)} ({_number(spread.low)}–{_number(spread.high)})"


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  " + "   ".join(cells).rstrip())
    return lines


def verdicts(judged: Sequence[Verdict]) -> str:
    """Return a table of the targets; `open` marks one that the run has no figures for."""
    rows = [["target", "bound", "got", ""]]
    for verdict in judged:
        got = _shown(verdict.got) if verdict.got else "-"
        words = {True: "holds", False: "MISSED", None: "open"}
        bound = f"{verdict.target.sign} {verdict.target.bound:g}"
        rows.append([verdict.target.title, bound, got, words[verdict.holds]])
    return "\n".join(["Targets", *_aligned(rows)])


def as_json(
    facts: Mapping[str, Any], outcomes: Mapping[str, Outcome], judged: Sequence[Verdict]
) -> str:
    """Return the whole run as JSON, with the figures of each repetition."""
    targets = [
        {
            **asdict(verdict.target),
            "got": asdict(verdict.got) if verdict.got else None,
            "holds": verdict.holds,
        }
        for verdict in judged
    ]
    scenarios = {name: asdict(outcome) for name, outcome in outcomes.items()}
    whole = {"facts": facts, "scenarios": scenarios, "targets": targets}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def write(folder: Path, stem: str, text: str) -> Path:
    """Write a result file into the folder, made where it is missing, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem}.json"
    path.write_text(text)
    return path
