from __future__ import annotations

import json

import pytest

from benchmarks import report
from benchmarks.acceptance import Target, Verdict
from benchmarks.measures import Spread
from benchmarks.report import Outcome


@pytest.fixture
def outcome() -> Outcome:
    outcome = Outcome("Own prompts", reference="ours")
    for ours, theirs in ((200.0, 100.0), (210.0, 100.0), (190.0, 100.0)):
        outcome.add("ours", {"tokens_per_second@16": ours, "ttft_p95@16": 0.25})
        outcome.add("other", {"tokens_per_second@16": theirs})
    return outcome


def row(text: str, label: str) -> str:
    (found,) = [line for line in text.splitlines() if label in line]
    return " ".join(found.split())


def test_a_row_has_medians_with_their_spread_and_the_ratio_to_ours(outcome: Outcome) -> None:
    text = report.tables({"own": outcome})
    assert row(text, "tokens/s") == "tokens/s, 16 at once 200 (190–210) 100 ×2.00"


def test_seconds_are_shown_as_milliseconds_and_missing_figures_as_a_dash(
    outcome: Outcome,
) -> None:
    assert row(report.tables({"own": outcome}), "TTFT") == "TTFT p95, ms, 16 at once 250 -"


def test_why_a_contestant_has_no_figures_is_said(outcome: Outcome) -> None:
    outcome.notes["third"] = "is not built"
    assert "third: is not built" in report.tables({"own": outcome})


def test_without_the_reference_nothing_is_compared(outcome: Outcome) -> None:
    del outcome.samples["ours"]
    assert "×" not in report.tables({"own": outcome})


def test_sizes_are_in_order_of_number_under_their_measure() -> None:
    outcome = Outcome("Own", reference="ours")
    outcome.add("ours", {"wall@4": 1, "tokens@4": 1, "wall@16": 1, "tokens@16": 1})
    labels = [
        line.split("  ")[1].strip() for line in report.tables({"own": outcome}).splitlines()[2:]
    ]
    assert labels == [
        "wall, s, 4 at once",
        "wall, s, 16 at once",
        "tokens, 4 at once",
        "tokens, 16 at once",
    ]


def test_a_verdict_has_the_figure_and_whether_it_holds() -> None:
    target = Target("own", "wall", "other", "≤", 0.25)
    text = report.verdicts(
        [
            Verdict(target, Spread(0.2, 0.1, 0.3)),
            Verdict(target, Spread(0.4, 0.4, 0.4)),
            Verdict(target, None),
        ]
    )
    assert [" ".join(line.split()) for line in text.splitlines()[2:]] == [
        "own: wall / other ≤ 0.25 0.2 (0.1–0.3) holds",
        "own: wall / other ≤ 0.25 0.4 MISSED",
        "own: wall / other ≤ 0.25 - open",
    ]


def test_the_file_has_every_repetition_and_every_verdict(outcome: Outcome) -> None:
    verdict = Verdict(Target("own", "wall", "other", "≤", 0.25), Spread(0.4, 0.4, 0.4))
    read = json.loads(report.as_json({"cpu": "some"}, {"own": outcome}, [verdict]))
    assert read["facts"] == {"cpu": "some"}
    assert read["scenarios"]["own"]["samples"]["ours"]["tokens_per_second@16"] == [200, 210, 190]
    assert read["targets"][0]["got"]["median"] == 0.4
    assert read["targets"][0]["holds"] is False
