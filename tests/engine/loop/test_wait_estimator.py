"""Estimates of the time until a slot is free."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable

import pytest

from gguf_worker.engine.loop.wait_estimator import LONGEST, WaitEstimator


def test_the_wait_is_zero_while_no_request_has_ended() -> None:
    assert WaitEstimator(4).wait(100) == 0.0


def test_an_empty_queue_is_no_wait() -> None:
    estimator = WaitEstimator(4)
    estimator.note(10.0)
    assert estimator.wait(0) == 0.0


def test_places_come_free_at_the_rate_at_which_requests_end() -> None:
    estimator = WaitEstimator(4)
    for _ in range(20):
        estimator.note(8.0)
    assert estimator.wait(1) == pytest.approx(2.0)
    assert estimator.wait(6) == pytest.approx(12.0)


def test_the_newest_requests_count_the_most_but_one_does_not_decide() -> None:
    estimator = WaitEstimator(1)
    estimator.note(10.0)
    estimator.note(110.0)
    assert 10.0 < estimator.wait(1) < 40.0
    for _ in range(60):
        estimator.note(2.0)
    assert estimator.wait(1) == pytest.approx(2.0, abs=0.2)


def turns(estimator: WaitEstimator, count: int, now: float = 100.0) -> list[float]:
    """Return the times at which `count` requests that are refused now shall come again."""
    return [now + estimator.turn(now, since=now) for _ in range(count)]


def test_refused_requests_come_again_one_after_the_other_as_slots_become_free() -> None:
    estimator = WaitEstimator(4)
    estimator.note(8.0)
    pace = 1.5 * 8.0 / 4
    assert turns(estimator, 3) == pytest.approx([100 + pace, 100 + 2 * pace, 100 + 3 * pace])
    later = estimator.turn(101.0, since=100.0)
    assert 101.0 + later == pytest.approx(100 + 4 * pace), "behind those who have a turn"


def test_a_turn_that_is_over_holds_up_nobody() -> None:
    estimator = WaitEstimator(1)
    estimator.note(2.0)
    turns(estimator, 5)
    assert estimator.turn(1000.0, since=999.0) == pytest.approx(3.0)


def test_no_turn_is_so_late_that_clients_would_not_heed_it() -> None:
    estimator = WaitEstimator(1)
    estimator.note(25.0)
    assert turns(estimator, 4)[2:] == [100 + LONGEST] * 2


def test_turns_may_be_forgotten() -> None:
    estimator = WaitEstimator(1)
    estimator.note(2.0)
    turns(estimator, 5)
    estimator.forget_turns()
    assert turns(estimator, 1) == pytest.approx([103.0])


def test_while_no_request_has_ended_those_that_run_tell_how_long_it_takes_at_least() -> None:
    young, old = (WaitEstimator(1).turn(100.0, since) for since in (100.0, 70.0))
    assert young == pytest.approx(4.5)
    assert old == pytest.approx(LONGEST)
    assert WaitEstimator(2).turn(100.0, since=90.0) == pytest.approx(15.0)


def test_turns_are_as_far_apart_as_callers_are_exact() -> None:
    estimator = WaitEstimator(8)
    estimator.note(1e-6)
    assert turns(estimator, 2) == pytest.approx([100.1, 100.2])


CLIENTS, SLOTS, QUEUE, TRIES = 60, 4, 4, 3


def refused(seconds: Callable[[], float], *, known: float | None) -> int:
    """Let CLIENTS come at once to a worker of so many places, each with so many tries, and return
    how many get no answer. `seconds`: how long a request takes; `known`: what is known of that."""
    estimator = WaitEstimator(SLOTS)
    if known is not None:
        estimator.note(known)
    calls = [(client * 1e-3, client, TRIES) for client in range(CLIENTS)]
    ends: list[tuple[float, float]] = []  # (end, begin) of those that run
    waiting = lost = 0

    def begin(now: float) -> None:
        heapq.heappush(ends, (now + seconds(), now))

    heapq.heapify(calls)
    while calls:
        now, client, tries = heapq.heappop(calls)
        while ends and ends[0][0] <= now:
            end, began = heapq.heappop(ends)
            estimator.note(end - began)
            if waiting:
                waiting -= 1
                begin(end)
        if len(ends) < SLOTS:
            begin(now)
        elif waiting < QUEUE:
            waiting += 1
        elif tries == 1:
            lost += 1
        else:
            wait = estimator.turn(now, since=min(began for _, began in ends))
            heapq.heappush(calls, (now + wait, client, tries - 1))
    return lost


@pytest.mark.parametrize("seconds", [0.02, 0.3, 1.0, 2.0, 4.0])
def test_many_more_clients_than_places_all_get_one_with_two_more_tries(seconds: float) -> None:
    assert refused(lambda: seconds, known=seconds) == 0
    assert refused(lambda: seconds, known=None) == 0, "nor do they if nothing is known at first"


@pytest.mark.parametrize("seed", range(5))
def test_so_do_those_whose_requests_take_very_different_times(seed: int) -> None:
    chance = random.Random(seed)
    assert refused(lambda: chance.uniform(0.3, 1.7) * 2.0, known=2.0) == 0
    assert refused(lambda: chance.uniform(0.3, 1.7) * 2.0, known=None) == 0
