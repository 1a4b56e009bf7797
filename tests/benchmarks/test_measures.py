from __future__ import annotations

import pytest

from benchmarks.measures import Spread, at, percentile, ratio, split


def test_a_spread_is_the_median_between_the_smallest_and_the_largest() -> None:
    assert Spread.of([3.0, 1.0, 10.0]) == Spread(3.0, 1.0, 10.0)


@pytest.mark.parametrize(
    ("percent", "expected"), [(50, 50), (95, 95), (99, 99), (100, 100), (0, 1)]
)
def test_a_percentile_is_the_smallest_figure_that_so_many_do_not_exceed(
    percent: float, expected: float
) -> None:
    assert percentile([float(n) for n in range(100, 0, -1)], percent) == expected


def test_a_percentile_of_one_figure_is_that_figure() -> None:
    assert percentile([7.0], 99) == 7.0


def test_a_ratio_pairs_repetitions_so_that_a_slow_minute_of_the_machine_falls_out() -> None:
    assert ratio([100.0, 10.0], [50.0, 5.0]) == Spread(2.0, 2.0, 2.0)


def test_a_ratio_needs_figures_of_both() -> None:
    assert ratio([], [1.0]) is None
    assert ratio([1.0], []) is None


@pytest.mark.parametrize(("measure", "parts"), [("wall", ("wall", None)), ("wall@8", ("wall", 8))])
def test_a_measures_size_stands_behind_an_at(measure: str, parts: tuple[str, int | None]) -> None:
    assert split(measure) == parts


def test_a_measure_with_a_size_can_be_split_again() -> None:
    assert split(at("wall", 16)) == ("wall", 16)
