"""Targets of the engine beside its peers, and the judgement of a run's figures.

Pure: figures in, verdicts out. A target without figures is open, not missed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from benchmarks import cold_start
from benchmarks.download import CONNECTIONS, COPY, HUGGINGFACE, LIMIT_MB, MANY
from benchmarks.measures import Samples, Spread, at, ratio
from benchmarks.overhead import ROWS
from benchmarks.peers import EXAMPLE, LLAMA_SERVER, NAIVE, OURS
from benchmarks.sdk_loop import DIRECT, SDK

Results = Mapping[str, Mapping[str, Samples]]
"""The figures of all repetitions, by scenario, contestant and measure."""


@dataclass(frozen=True, slots=True)
class Target:
    """A bound for our `measure`: divided by that of `peer`, or as it is where `peer` is None."""

    scenario: str
    measure: str
    peer: str | None
    sign: Literal["≤", "≥"]
    bound: float
    ours: str = OURS

    @property
    def title(self) -> str:
        beside = f" / {self.peer}" if self.peer else ""
        return f"{self.scenario}: {self.measure}{beside}"

    def got(self, results: Results) -> Spread | None:
        """Return the figure to be judged, or None where the run has none."""
        scenario = results.get(self.scenario, {})
        ours = scenario.get(self.ours, {}).get(self.measure, ())
        if not ours:
            return None
        if self.peer is None:
            return Spread.of(ours)
        return ratio(ours, scenario.get(self.peer, {}).get(self.measure, ()))

    def holds(self, got: Spread) -> bool:
        """Return whether the median of `got` is within the bound."""
        return got.median <= self.bound if self.sign == "≤" else got.median >= self.bound


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target with the figure that a run gave for it; `holds` is None where it gave none."""

    target: Target
    got: Spread | None

    @property
    def holds(self) -> bool | None:
        return None if self.got is None else self.target.holds(self.got)


_SPEED = "tokens_per_second"
_LIMITED = "limited_mb_per_second"
_STEP_US, _ROW_US = 200, 20

TARGETS: tuple[Target, ...] = (
    Target("prefix", "wall", LLAMA_SERVER, "≤", 0.25),
    Target("prefix", "ttft_p95", LLAMA_SERVER, "≤", 0.15),
    Target("own", at(_SPEED, 1), LLAMA_SERVER, "≥", 0.98),
    *(Target("own", at(_SPEED, level), LLAMA_SERVER, "≥", 1.0) for level in (4, 8, 16, 32)),
    Target("own", at(_SPEED, 8), EXAMPLE, "≥", 1.5),
    Target("own", at(_SPEED, 8), NAIVE, "≥", 1.3),
    Target("spinner", _SPEED, LLAMA_SERVER, "≥", 1.3),
    Target("long", "gap_p99", LLAMA_SERVER, "≤", 0.15),
    Target("long", "wall", LLAMA_SERVER, "≤", 1.05),
    Target("chats", "reused", None, "≥", 0.95),
    *(
        Target("overhead", at("own_us", rows), None, "≤", _STEP_US + _ROW_US * rows)
        for rows in ROWS
    ),
    Target("cold", "until_job_take", cold_start.NAIVE, "≤", 0.7, ours=cold_start.OURS),
    Target("download", _LIMITED, None, "≥", 0.9 * CONNECTIONS * LIMIT_MB, ours=MANY),
    Target("download", "mb_per_second", COPY, "≥", 0.8, ours=MANY),
    Target("download", "mb_per_second", HUGGINGFACE, "≥", 1.0, ours=MANY),
    Target("sdk", _SPEED, DIRECT, "≥", 0.95, ours=SDK),
)


def judge(results: Results) -> list[Verdict]:
    """Return a verdict on each of TARGETS."""
    return [Verdict(target, target.got(results)) for target in TARGETS]
