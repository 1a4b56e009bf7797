"""How long a place takes to become free."""

from __future__ import annotations

import pytest

from gguf_worker.engine.pace import Pace


def test_nothing_is_said_while_no_request_has_ended() -> None:
    assert Pace(4).wait(100) == 0.0


def test_nobody_in_the_queue_is_no_wait() -> None:
    pace = Pace(4)
    pace.note(10.0)
    assert pace.wait(0) == 0.0


def test_places_come_free_at_the_rate_at_which_requests_end() -> None:
    pace = Pace(4)
    for _ in range(20):
        pace.note(8.0)
    assert pace.wait(1) == pytest.approx(2.0)
    assert pace.wait(6) == pytest.approx(12.0)


def test_the_newest_requests_count_the_most_but_one_does_not_decide() -> None:
    pace = Pace(1)
    pace.note(10.0)
    pace.note(110.0)
    assert 10.0 < pace.wait(1) < 40.0
    for _ in range(60):
        pace.note(2.0)
    assert pace.wait(1) == pytest.approx(2.0, abs=0.2)
