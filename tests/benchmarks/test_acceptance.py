from __future__ import annotations

from benchmarks.acceptance import TARGETS, Results, Target, Verdict, judge
from benchmarks.measures import Spread
from benchmarks.scenarios import FULL, SCENARIOS

AT_LEAST = Target("own", "speed", "other", "≥", 1.5)
AT_MOST = Target("own", "wall", "other", "≤", 0.25)


def test_a_target_is_judged_by_the_median_of_the_repetitions() -> None:
    results = {"own": {"ours": {"speed": [10.0, 16.0, 15.0]}, "other": {"speed": [10.0] * 3}}}
    got = AT_LEAST.got(results)
    assert got == Spread(1.5, 1.0, 1.6)
    assert AT_LEAST.holds(got)


def test_at_most_and_at_least_hold_on_the_bound_itself() -> None:
    exactly = Spread(0.25, 0.25, 0.25)
    assert AT_MOST.holds(exactly)
    assert not AT_LEAST.holds(exactly)


def test_a_target_without_a_peer_looks_at_the_figure_itself() -> None:
    alone = Target("chats", "reused", None, "≥", 0.95)
    assert alone.got({"chats": {"ours": {"reused": [0.96, 0.97]}}}) == Spread(0.965, 0.96, 0.97)


def test_a_target_without_figures_is_open() -> None:
    without: list[Results] = [{}, {"own": {}}, {"own": {"ours": {"speed": [1.0]}}}]
    for results in without:
        assert Verdict(AT_LEAST, AT_LEAST.got(results)).holds is None
    assert all(verdict.holds is None for verdict in judge({}))


def test_every_target_names_a_scenario_its_contestants_and_a_level_that_exist() -> None:
    for target in TARGETS:
        contestants = SCENARIOS[target.scenario].contestants
        assert target.ours in contestants
        assert target.peer is None or target.peer in contestants
        if target.scenario == "own":
            assert int(target.measure.partition("@")[2]) in FULL.levels
