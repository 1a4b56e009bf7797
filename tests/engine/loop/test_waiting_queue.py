"""The order of requests that wait."""

from __future__ import annotations

from collections import Counter
from typing import Any

from gguf_worker.engine.loop.sequence import Sequence
from gguf_worker.engine.loop.waiting_queue import AGEING_SECONDS, WaitingQueue


def one(id: int, **more: Any) -> Sequence:
    return Sequence.of(id, [1], 5, **more)


def queue(*sequences: Sequence) -> WaitingQueue:
    waiting = WaitingQueue()
    for sequence in sequences:
        waiting.add(sequence)
    return waiting


def order(waiting: WaitingQueue, now: float = 0.0, slots: int = 100) -> list[int]:
    """Return the ids in their order, if each of the last `slots` goes on running."""
    running: list[str] = []
    ids = []
    while (sequence := next(waiting.in_turn(now, Counter(running[-slots:])), None)) is not None:
        waiting.remove(sequence)
        running.append(sequence.user)
        ids.append(sequence.id)
    return ids


def test_an_empty_queue_has_no_next_request() -> None:
    assert next(queue().in_turn(0.0, {}), None) is None
    assert len(queue()) == 0


def test_the_first_to_come_goes_first() -> None:
    assert order(queue(one(3, arrived=2.0), one(1, arrived=3.0), one(2, arrived=1.0)), 5.0) == [
        2,
        3,
        1,
    ]


def test_the_lowest_id_of_those_that_came_together_goes_first() -> None:
    assert order(queue(one(2), one(1), one(3))) == [1, 2, 3]


def test_the_higher_priority_goes_first() -> None:
    assert order(queue(one(1, priority=0), one(2, priority=1), one(3, priority=2))) == [3, 2, 1]


def test_a_preempted_request_goes_before_all_others() -> None:
    resumed = one(3, priority=0, user="ann")
    resumed.preempted = True
    waiting = queue(one(1, priority=2), one(2), resumed)
    assert next(waiting.in_turn(100.0, {"ann": 5}), None) is resumed


def test_looking_at_the_turns_takes_nobody_out() -> None:
    first, second = one(1), one(2)
    waiting = queue(second, first)
    assert list(waiting.in_turn(0.0, {})) == [first, second]
    assert list(waiting.in_turn(0.0, {})) == [first, second]


def test_a_newcomer_has_those_ahead_whose_turn_is_earlier() -> None:
    waiting = queue(*(one(id, priority=id % 3, arrived=1.0) for id in range(9)))
    assert [waiting.ahead_of(priority, "", 1.0, {}) for priority in (0, 1, 2)] == [9, 6, 3]
    # The low ones have been lifted by then, and are older.
    assert waiting.ahead_of(1, "", 1.0 + AGEING_SECONDS, {}) == 9


def test_a_newcomer_whose_user_runs_much_has_those_ahead_who_run_less() -> None:
    waiting = queue(one(1, user="ann"), one(2, user="bob"))
    assert waiting.ahead_of(1, "carol", 1.0, {"ann": 2, "bob": 1}) == 0
    assert waiting.ahead_of(1, "ann", 1.0, {"ann": 2, "bob": 1}) == 2


def test_a_removed_request_waits_no_more() -> None:
    first, second = one(1), one(2)
    waiting = queue(first, second)
    assert first in waiting
    waiting.remove(first)
    assert first not in waiting
    assert second in waiting
    assert len(waiting) == 1


def test_waiting_lifts_a_request_by_a_priority_at_a_time() -> None:
    low, high = one(1, priority=0), one(2, priority=1, arrived=AGEING_SECONDS / 2)
    waiting = queue(low, high)
    assert next(waiting.in_turn(AGEING_SECONDS * 0.9, {}), None) is high
    assert next(waiting.in_turn(AGEING_SECONDS, {}), None) is low


def test_a_low_request_does_not_starve_under_a_stream_of_high_ones() -> None:
    low = one(0, priority=0)
    waiting = queue(low)
    for id in range(1, 1000):  # one high request comes for each place that becomes free
        now = float(id)
        waiting.add(one(id, priority=2, arrived=now))
        sequence = next(waiting.in_turn(now, {}), None)
        assert sequence is not None
        waiting.remove(sequence)
        if sequence is low:
            break
    assert low not in waiting
    assert now <= 3 * AGEING_SECONDS


def test_a_user_with_more_running_goes_after_one_with_fewer() -> None:
    ann, bob = one(1, user="ann"), one(2, user="bob", arrived=5.0)
    assert next(queue(ann, bob).in_turn(10.0, {"ann": 2, "bob": 1}), None) is bob
    assert next(queue(ann, bob).in_turn(10.0, {"ann": 1, "bob": 1}), None) is ann


def test_a_user_who_floods_takes_no_more_than_a_fair_share() -> None:
    flood = [one(id, user="ann") for id in range(20)]
    others = [one(id, user="bob", arrived=1.0) for id in range(20, 24)]
    assert order(queue(*flood, *others), now=2.0)[:8] == [0, 20, 1, 21, 2, 22, 3, 23]


def test_the_waiting_of_who_floods_counts_less() -> None:
    now = 2 * AGEING_SECONDS
    ann, bob = one(1, user="ann"), one(2, user="bob", arrived=now)
    assert next(queue(ann, bob).in_turn(now, {"ann": 4}), None) is bob
    assert next(queue(ann, bob).in_turn(now, {}), None) is ann


def test_a_user_who_floods_does_not_starve_either() -> None:
    ann = one(0, user="ann")
    waiting = queue(ann)
    for id in range(1, 1000):
        now = float(id)
        waiting.add(one(id, user=f"user {id}", arrived=now))
        sequence = next(waiting.in_turn(now, {"ann": 3}), None)
        assert sequence is not None
        waiting.remove(sequence)
        if sequence is ann:
            break
    assert ann not in waiting


def test_requests_of_nobody_stand_for_themselves() -> None:
    anonymous, ann = one(1), one(2, user="ann", arrived=1.0)
    assert next(queue(anonymous, ann).in_turn(2.0, {"": 50}), None) is anonymous
