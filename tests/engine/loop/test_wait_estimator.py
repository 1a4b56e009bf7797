"""Estimates of the time until a slot is free."""

from __future__ import annotations

import pytest

from gguf_worker.engine.loop.wait_estimator import WaitEstimator


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
