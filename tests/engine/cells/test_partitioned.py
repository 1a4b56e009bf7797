"""Cells of its own for each id: who goes on where, what is copied, and how the running ids stay together."""

from __future__ import annotations

import pytest

from gguf_worker.engine.cells.partitioned import PATIENCE, WORTH_COPYING, PartitionedCells
from gguf_worker.engine.cells.unified import Copy, Operation, Trim

EACH = 200
"""Cells of one id."""
PREFIX = list(range(1000, 1000 + WORTH_COPYING))


def make(slots: int = 3, spare: int = 0) -> PartitionedCells:
    return PartitionedCells((slots + spare) * EACH, slots, spare)


def tokens_of(id: int, count: int) -> list[int]:
    """Tokens that no other id has."""
    return [10_000 * id + at for at in range(count)]


def start(kv: PartitionedCells, tokens: list[int]) -> int:
    slot = kv.claim(tokens, kv.look_up(tokens))
    kv.check()
    return slot


def run(kv: PartitionedCells, tokens: list[int]) -> int:
    """A sequence that has computed all its tokens."""
    slot = start(kv, tokens)
    kv.take(slot, tokens[kv.held(slot) :])
    kv.check()
    return slot


def end(kv: PartitionedCells, slot: int) -> None:
    kv.retire(slot)
    kv.check()


def rest(kv: PartitionedCells, *prompts: list[int]) -> None:
    """Requests that were computed side by side and have ended, in this order."""
    for slot in [run(kv, tokens) for tokens in prompts]:
        end(kv, slot)
    kv.operations()


def settle(kv: PartitionedCells, steps: int) -> list[tuple[int, int]]:
    """All moves of so many steps."""
    moves = [move for _ in range(steps) for move in kv.settle()]
    kv.check()
    return moves


def known(kv: PartitionedCells, tokens: list[int]) -> int:
    """How many of `tokens`, with one more after them, are held somewhere."""
    return kv.look_up([*tokens, -1]).ready.length


def test_newcomers_without_a_past_take_neighbouring_ids() -> None:
    kv = make()
    assert [start(kv, tokens_of(id, 5)) for id in range(3)] == [0, 1, 2]
    assert kv.free_slots == 0
    assert kv.operations() == ()


def test_cells_are_counted_per_id_and_who_rests_is_never_in_the_way() -> None:
    kv = make()
    first, second = run(kv, tokens_of(1, 5)), run(kv, tokens_of(2, 7))
    assert (kv.held(first), kv.held(second), kv.used, kv.pinned) == (5, 7, 12, 12)
    end(kv, first)
    assert (kv.held(first), kv.used, kv.pinned, kv.free) == (5, 12, 7, 3 * EACH - 7)
    assert kv.make_room(kv.free)
    assert not kv.make_room(kv.free + 1)


def test_the_spare_ids_hold_tokens_but_run_no_more_sequences() -> None:
    kv = make(slots=2, spare=1)
    assert (kv.total, kv.free_slots) == (3 * EACH, 2)
    rest(kv, tokens_of(1, 5), tokens_of(2, 5))
    for id in (3, 4):
        run(kv, tokens_of(id, 5))
    assert kv.free_slots == 0
    assert kv.used == 15


def test_the_next_turn_goes_on_where_its_past_rests_without_a_copy() -> None:
    kv = make()
    rest(kv, tokens_of(1, 50), tokens_of(2, 50))
    slot = start(kv, [*tokens_of(2, 50), 1, 2])
    assert (slot, kv.held(slot)) == (1, 50)
    assert kv.operations() == ()


def test_a_turn_that_was_changed_near_its_end_goes_on_from_there() -> None:
    kv = make()
    rest(kv, tokens_of(1, 50))
    slot = start(kv, [*tokens_of(1, 40), 1, 2])
    assert (slot, kv.held(slot)) == (0, 40)
    assert kv.operations() == (Trim(0, 40),)


def test_a_branch_gets_a_copy_and_leaves_the_other_where_it_rests() -> None:
    kv = make()
    rest(kv, [*PREFIX, *tokens_of(1, 100)])
    slot = start(kv, [*PREFIX, 1, 2])
    assert kv.operations() == (Copy(0, slot, len(PREFIX)),)
    assert (kv.held(0), kv.held(slot)) == (len(PREFIX) + 100, len(PREFIX))


@pytest.mark.parametrize("more", [WORTH_COPYING - 1, WORTH_COPYING])
def test_a_prompt_with_more_than_half_of_what_rests_is_its_next_turn(more: int) -> None:
    kv = make()
    rest(kv, [*PREFIX, *tokens_of(1, more)])
    slot = start(kv, [*PREFIX, 1, 2])
    assert (slot == 0) is (more < len(PREFIX))
    assert kv.held(slot) == len(PREFIX)


@pytest.mark.parametrize("shared", [WORTH_COPYING - 1, WORTH_COPYING])
def test_a_prefix_of_one_that_runs_is_copied_from_some_length_on(shared: int) -> None:
    kv = make()
    run(kv, PREFIX)
    slot = start(kv, [*PREFIX[:shared], 1, 2])
    copied = shared >= WORTH_COPYING
    assert kv.held(slot) == (shared if copied else 0)
    assert kv.operations() == ((Copy(0, slot, shared),) if copied else ())


def test_the_last_token_is_always_computed() -> None:
    kv = make()
    rest(kv, PREFIX)
    assert kv.look_up(PREFIX).ready.length == len(PREFIX) - 1
    slot = start(kv, PREFIX)
    assert kv.operations() == (Trim(slot, len(PREFIX) - 1),)


@pytest.mark.parametrize("shared", [WORTH_COPYING - 1, WORTH_COPYING])
def test_only_what_is_worth_copying_is_waited_for(shared: int) -> None:
    kv = make()
    slot = start(kv, [*PREFIX, 1])
    hit = kv.look_up([*PREFIX[:shared], 2])
    assert hit.gain == (shared if shared >= WORTH_COPYING else 0)
    assert hit.pinned == 0  # a copy has cells of its own
    kv.wait_for(hit)
    kv.take(slot, [*PREFIX, 1])
    assert kv.look_up([*PREFIX, 2]).ready.length == len(PREFIX)
    assert kv.until_border(slot) is None


def test_a_newcomer_takes_the_place_of_who_was_used_the_longest_ago() -> None:
    kv = make()
    rest(kv, tokens_of(1, 5), tokens_of(2, 5), tokens_of(3, 5))
    end(kv, run(kv, [*tokens_of(1, 5), 1]))  # used again
    kv.operations()
    slot = start(kv, tokens_of(4, 5))
    assert slot == 1
    assert kv.operations() == (Trim(1, 0),)


def test_who_has_run_until_lately_is_spared_however_long_ago_it_came() -> None:
    kv = make(slots=2)
    first, second = run(kv, tokens_of(1, 5)), run(kv, tokens_of(2, 5))
    end(kv, second)
    end(kv, first)
    assert start(kv, tokens_of(3, 5)) == second


def test_of_the_empty_ids_the_one_nearest_to_those_that_run_is_taken() -> None:
    kv = make(slots=6)
    for id in range(5):
        start(kv, tokens_of(id, 5))
    for slot in (0, 1, 2):
        end(kv, slot)
    assert [start(kv, tokens_of(id, 5)) for id in (5, 6)] == [2, 1]


def test_an_empty_id_is_taken_before_one_that_rests() -> None:
    kv = make()
    rest(kv, tokens_of(1, 5))
    assert start(kv, tokens_of(2, 5)) != 0
    assert known(kv, tokens_of(1, 5)) == 5


def test_a_branch_spares_the_one_it_is_copied_from() -> None:
    kv = make(slots=2)
    rest(kv, [*PREFIX, *tokens_of(1, 100)], tokens_of(2, 5))
    slot = start(kv, [*PREFIX, 1, 2])
    assert slot == 1
    assert kv.operations() == (Trim(1, 0), Copy(0, 1, len(PREFIX)))


def test_where_there_is_no_other_place_a_branch_takes_that_of_the_other() -> None:
    kv = make(slots=1)
    rest(kv, [*PREFIX, *tokens_of(1, 100)])
    slot = start(kv, [*PREFIX, 1, 2])
    assert (slot, kv.held(slot)) == (0, len(PREFIX))
    assert kv.operations() == (Trim(0, len(PREFIX)),)


def test_who_has_computed_nothing_leaves_nothing() -> None:
    kv = make()
    slot = start(kv, tokens_of(1, 5))
    end(kv, slot)
    assert (kv.used, kv.free_slots) == (0, 3)
    assert known(kv, tokens_of(1, 5)) == 0


def test_tokens_that_were_not_computed_do_not_rest() -> None:
    kv = make()
    slot = start(kv, tokens_of(1, 9))
    kv.take(slot, tokens_of(1, 4))
    end(kv, slot)
    assert known(kv, tokens_of(1, 9)) == 4


def test_tokens_that_were_generated_rest_with_the_prompt() -> None:
    kv = make()
    slot = run(kv, tokens_of(1, 5))
    kv.take(slot, [7])
    kv.take(slot, [8])
    end(kv, slot)
    assert known(kv, [*tokens_of(1, 5), 7, 8]) == 7


def test_who_rests_can_be_let_go_one_by_one() -> None:
    kv = make()
    rest(kv, tokens_of(1, 5), tokens_of(2, 5))
    run(kv, tokens_of(3, 5))
    assert kv.release_one()
    assert kv.release_one()
    assert not kv.release_one()
    assert kv.operations() == (Trim(0, 0), Trim(1, 0))
    assert kv.used == kv.pinned == 5


# Holes among the running ids


def torn(spare: int = 0) -> PartitionedCells:
    """Ids 0 and 2 run, and 1 rests between them."""
    kv = make(spare=spare)
    slots = [run(kv, tokens_of(id, 5)) for id in range(3)]
    end(kv, slots[1])
    kv.operations()
    return kv


def test_neighbours_need_no_move() -> None:
    kv = make()
    for id in range(3):
        run(kv, tokens_of(id, 5))
    end(kv, 2)
    assert settle(kv, 10 * PATIENCE) == []


def test_a_hole_that_stays_open_is_filled_with_the_last_one() -> None:
    kv = torn()
    assert settle(kv, PATIENCE - 1) == []
    assert settle(kv, 1) == [(2, 1)]
    assert kv.held(1) == 5
    assert kv.free_slots == 1
    assert settle(kv, 10 * PATIENCE) == []


def test_what_rests_in_the_hole_is_kept_elsewhere_where_there_is_a_place() -> None:
    kv = torn(spare=1)
    settle(kv, PATIENCE)
    assert kv.operations() == (Copy(1, 3, 5), Trim(1, 0), Copy(2, 1, 5), Trim(2, 0))
    assert known(kv, tokens_of(1, 5)) == 5


def test_what_rests_in_the_hole_is_lost_where_there_is_no_place() -> None:
    kv = torn()
    settle(kv, PATIENCE)
    assert kv.operations() == (Trim(1, 0), Copy(2, 1, 5), Trim(2, 0))
    assert known(kv, tokens_of(1, 5)) == 0


def crowded() -> PartitionedCells:
    """Ids 0 and 2 run; of those at rest 1, in the hole, was used before 3 and that before 4."""
    kv = make(slots=3, spare=2)
    slots = [run(kv, tokens_of(id, 5)) for id in range(3)]
    end(kv, slots[1])
    for id in (3, 4):
        slot = run(kv, tokens_of(id, 5))
        assert slot == id
        end(kv, slot)
    kv.operations()
    return kv


def test_what_rests_in_the_hole_takes_the_place_of_what_was_used_the_longest_ago() -> None:
    kv = crowded()
    end(kv, run(kv, [*tokens_of(1, 5), 7]))  # used again
    settle(kv, PATIENCE)
    assert kv.operations() == (
        Trim(3, 0),
        Copy(1, 3, 6),
        Trim(1, 0),
        Copy(2, 1, 5),
        Trim(2, 0),
    )
    assert [known(kv, tokens_of(id, 5)) for id in (1, 3, 4)] == [5, 0, 5]


def test_what_rests_in_the_hole_takes_no_place_of_what_was_used_later() -> None:
    kv = crowded()
    settle(kv, PATIENCE)
    assert kv.operations() == (Trim(1, 0), Copy(2, 1, 5), Trim(2, 0))
    assert [known(kv, tokens_of(id, 5)) for id in (1, 3, 4)] == [0, 5, 5]


def test_each_hole_costs_patience_and_each_move_begins_anew() -> None:
    kv = make(slots=7)
    for id in range(7):
        run(kv, tokens_of(id, 5))
    for slot in (1, 3, 5):
        end(kv, slot)
    steps = -(-PATIENCE // 3)  # three holes, so three passes more in each step
    assert settle(kv, steps - 1) == []
    assert settle(kv, 1) == [(6, 1)]
    assert settle(kv, PATIENCE - 1) == []  # one hole is left
    assert settle(kv, 1) == [(4, 3)]


def test_a_hole_that_is_closed_in_time_costs_nothing() -> None:
    kv = torn()
    settle(kv, PATIENCE - 1)
    run(kv, [*tokens_of(1, 5), 7])
    assert settle(kv, PATIENCE - 1) == []
    end(kv, 1)
    assert settle(kv, PATIENCE - 1) == []


def test_who_has_moved_goes_on_as_before() -> None:
    kv = torn()
    settle(kv, PATIENCE)
    kv.take(1, [7])
    end(kv, 1)
    assert known(kv, [*tokens_of(2, 5), 7]) == 6


def test_who_has_computed_nothing_moves_without_a_copy() -> None:
    kv = make()
    slots = [run(kv, tokens_of(id, 5)) for id in range(2)]
    start(kv, tokens_of(3, 5))
    end(kv, slots[1])
    kv.operations()
    assert settle(kv, PATIENCE) == [(2, 1)]
    operations: tuple[Operation, ...] = kv.operations()
    assert not any(isinstance(each, Copy) for each in operations)


def test_a_hole_before_all_that_run_is_none() -> None:
    kv = make(slots=4)
    slots = [run(kv, tokens_of(id, 5)) for id in range(4)]
    end(kv, slots[0])
    assert settle(kv, 10 * PATIENCE) == []
    end(kv, slots[2])
    assert settle(kv, PATIENCE) == [(3, 2)]
