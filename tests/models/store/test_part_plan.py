from __future__ import annotations

import random

import pytest

from gguf_worker.models.store import PieceSizes
from gguf_worker.models.store.part_plan import Claim, PartPlan

MEGABYTE = 1 << 20
SIZES = PieceSizes(connections=4, least_file=0, least=10, most=10, ahead=2, least_split=3)


def _claimed(plan: PartPlan, hashed: int = 0) -> tuple[int, int] | None:
    claim = plan.claim(hashed, 0.0)
    return (claim.at, claim.end) if claim else None


def _take(plan: PartPlan, hashed: int = 0) -> Claim:
    claim = plan.claim(hashed, 0.0)
    assert claim is not None
    return claim


@pytest.mark.parametrize(
    ("megabytes", "piece"), [(10, 10), (63, 63), (64, 8), (1_000, 8), (4_096, 16), (100_000, 32)]
)
def test_a_small_file_is_one_piece_and_the_pieces_of_large_ones_are_bounded(
    megabytes: int, piece: int
) -> None:
    assert PieceSizes().of(megabytes * MEGABYTE) == piece * MEGABYTE
    connections = PartPlan(megabytes * MEGABYTE, (), PieceSizes()).connections
    assert connections == (1 if piece == megabytes else 16)


def test_pieces_are_handed_out_in_order_and_each_once() -> None:
    plan = PartPlan(35, (), SIZES)
    assert [_claimed(plan) for _ in range(4)] == [(0, 10), (10, 20), (20, 30), (30, 35)]


def test_what_is_there_is_not_fetched_again() -> None:
    plan = PartPlan(60, ((0, 12), (20, 41), (50, 60)), SIZES)
    assert plan.prefix == 12
    assert plan.done_bytes == 43
    assert [_claimed(plan) for _ in range(2)] == [(12, 20), (41, 50)]


def test_what_came_of_a_claim_that_ended_early_is_kept_and_the_rest_is_claimed_again() -> None:
    plan = PartPlan(30, (), SIZES)
    first, second = _take(plan), _take(plan)
    plan.add(first, 4)
    plan.add(second, 10)
    plan.release(first)
    assert plan.there == ((0, 4), (10, 20))
    assert _claimed(plan) == (4, 10)


def test_no_piece_is_far_ahead_of_the_first_gap() -> None:
    plan = PartPlan(1000, (), SIZES)
    claims = [_take(plan) for _ in range(8)]
    assert [claim.at for claim in claims] == list(range(0, 80, 10))
    for claim in claims[1:]:
        plan.add(claim, 10)
        plan.release(claim)
    assert _claimed(plan) == (5, 10)  # half of the slow one, and not what begins at 80
    assert _claimed(plan, hashed=0) is None


def test_pieces_wait_for_the_hash_once_it_has_read_what_was_there_before() -> None:
    plan = PartPlan(1000, ((0, 500),), SIZES)
    for _ in range(8):
        claim = _take(plan)
        plan.add(claim, 10)
        plan.release(claim)
    assert plan.prefix == 580
    assert _claimed(plan, hashed=100) == (580, 590)  # the hash is still reading the old part
    plan.release(plan._claims[0])
    assert _claimed(plan, hashed=500) is None
    assert _claimed(plan, hashed=501) == (580, 590)


def test_the_longest_claim_is_halved_when_nothing_else_is_left() -> None:
    plan = PartPlan(40, (), SIZES)
    claims = [_take(plan) for _ in range(4)]
    plan.add(claims[0], 8)
    plan.add(claims[1], 2)
    plan.add(claims[2], 3)
    plan.add(claims[3], 3)
    half = _take(plan)
    assert (half.at, half.end, claims[1].end) == (16, 20, 16)
    plan.add(claims[1], 8)  # it had more on its way
    assert claims[1].at == 16


def test_all_that_a_slow_connection_has_still_to_bring_is_taken_over() -> None:
    plan = PartPlan(10, (), SIZES)
    slow = _take(plan)
    plan.add(slow, 5)
    assert plan.claim(0, 9.0) is None
    assert plan.claim(0, 18.0) is None  # it brought enough until 9
    plan.add(slow, 2)
    rest = plan.claim(0, 19.0)
    assert rest is not None
    assert (rest.at, rest.end, slow.end) == (7, 10, 7)
    plan.add(slow, 3)  # it comes too late
    assert plan.there == ((0, 7),)
    plan.release(slow)
    plan.add(rest, 3)
    assert plan.complete


def test_a_claim_goes_on_as_far_as_nobody_fetches() -> None:
    plan = PartPlan(100, ((20, 30),), SIZES)
    first = _take(plan)
    plan.extend(first)
    assert first.end == 100
    plan = PartPlan(100, ((20, 30),), SIZES)
    first, second, third = _take(plan), _take(plan), _take(plan)
    plan.release(second)
    plan.extend(first)
    assert (third.at, first.end) == (30, 30)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_order_bytes_come_in_all_come_once(seed: int) -> None:
    chance = random.Random(seed)
    size = chance.randrange(1, 500)
    plan = PartPlan(size, (), SIZES)
    active: list[Claim] = []
    fetched = 0
    while not plan.complete:
        claim = plan.claim(plan.prefix, 0.0) if len(active) < 4 else None
        if claim is not None:
            active.append(claim)
        chosen = chance.choice(active)
        count = min(chance.randrange(1, 6), chosen.end - chosen.at)
        plan.add(chosen, count)
        fetched += count
        if chosen.at == chosen.end or chance.random() < 0.05:
            plan.release(chosen)
            active.remove(chosen)
    assert fetched == size
    assert plan.there == ((0, size),)
