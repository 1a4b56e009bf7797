"""Cells of its own for each id: which ids are taken, what is copied, and how running ids stay
dense."""

from __future__ import annotations

import pytest

from gguf_worker.engine.cells.partitioned import WORTH_COPYING, WORTH_MOVING, PartitionedCells
from gguf_worker.engine.cells.unified import Clear, Copy, Operation, Trim

EACH = 200
"""Cells of one id."""
PREFIX = list(range(1000, 1000 + WORTH_COPYING))


def make(slots: int = 3, idle: int = 0) -> PartitionedCells:
    return PartitionedCells((slots + idle) * EACH, slots, idle)


def tokens_of(id: int, count: int) -> list[int]:
    """Tokens that no other id has."""
    return [10_000 * id + at for at in range(count)]


def start(cells: PartitionedCells, tokens: list[int]) -> int:
    slot = cells.claim(tokens, cells.look_up(tokens))
    cells.check()
    return slot


def run(cells: PartitionedCells, tokens: list[int]) -> int:
    """A sequence that has computed all its tokens."""
    slot = start(cells, tokens)
    cells.take(slot, tokens[cells.held(slot) :])
    cells.check()
    return slot


def end(cells: PartitionedCells, slot: int) -> None:
    cells.retire(slot)
    cells.check()


def keep_idle(cells: PartitionedCells, *prompts: list[int]) -> None:
    """Requests that were computed side by side and have ended, in this order."""
    for slot in [run(cells, tokens) for tokens in prompts]:
        end(cells, slot)
    cells.operations()


def moves_of(cells: PartitionedCells, steps: int) -> list[tuple[int, int]]:
    """All moves of so many steps."""
    moves = [move for _ in range(steps) for move in cells.compact()]
    cells.check()
    return moves


def known(cells: PartitionedCells, tokens: list[int]) -> int:
    """Count how many of `tokens`, with one more after them, are held somewhere."""
    return cells.look_up([*tokens, -1]).ready.length


def test_newcomers_without_a_past_take_neighbouring_ids() -> None:
    cells = make()
    assert [start(cells, tokens_of(id, 5)) for id in range(3)] == [0, 1, 2]
    assert cells.free_slots == 0
    assert cells.operations() == ()


def test_cells_are_counted_per_id_and_idle_ones_are_always_free() -> None:
    cells = make()
    first, second = run(cells, tokens_of(1, 5)), run(cells, tokens_of(2, 7))
    assert (cells.held(first), cells.held(second), cells.used, cells.pinned) == (5, 7, 12, 12)
    end(cells, first)
    assert (cells.held(first), cells.used, cells.pinned, cells.free) == (5, 12, 7, 3 * EACH - 7)
    assert cells.evict_for(cells.free)
    assert not cells.evict_for(cells.free + 1)


def test_idle_ids_hold_tokens_but_run_no_more_sequences() -> None:
    cells = make(slots=2, idle=1)
    assert (cells.total, cells.free_slots) == (3 * EACH, 2)
    keep_idle(cells, tokens_of(1, 5), tokens_of(2, 5))
    for id in (3, 4):
        run(cells, tokens_of(id, 5))
    assert cells.free_slots == 0
    assert cells.used == 15


def test_the_next_turn_goes_on_under_the_id_of_its_past_without_a_copy() -> None:
    cells = make()
    keep_idle(cells, tokens_of(1, 50), tokens_of(2, 50))
    slot = start(cells, [*tokens_of(2, 50), 1, 2])
    assert (slot, cells.held(slot)) == (1, 50)
    assert cells.operations() == ()


def test_a_turn_that_was_changed_near_its_end_goes_on_from_there() -> None:
    cells = make()
    keep_idle(cells, tokens_of(1, 50))
    slot = start(cells, [*tokens_of(1, 40), 1, 2])
    assert (slot, cells.held(slot)) == (0, 40)
    assert cells.operations() == (Trim(0, 40),)


def test_a_branch_gets_a_copy_and_leaves_the_idle_id_as_it_is() -> None:
    cells = make()
    keep_idle(cells, [*PREFIX, *tokens_of(1, 100)])
    slot = start(cells, [*PREFIX, 1, 2])
    assert cells.operations() == (Copy(0, slot, len(PREFIX)),)
    assert (cells.held(0), cells.held(slot)) == (len(PREFIX) + 100, len(PREFIX))


@pytest.mark.parametrize("more", [WORTH_COPYING - 1, WORTH_COPYING])
def test_a_prompt_with_more_than_half_of_what_is_idle_is_its_next_turn(more: int) -> None:
    cells = make()
    keep_idle(cells, [*PREFIX, *tokens_of(1, more)])
    slot = start(cells, [*PREFIX, 1, 2])
    assert (slot == 0) is (more < len(PREFIX))
    assert cells.held(slot) == len(PREFIX)


@pytest.mark.parametrize("shared", [WORTH_COPYING - 1, WORTH_COPYING])
def test_a_prefix_of_one_that_runs_is_copied_from_some_length_on(shared: int) -> None:
    cells = make()
    run(cells, PREFIX)
    slot = start(cells, [*PREFIX[:shared], 1, 2])
    copied = shared >= WORTH_COPYING
    assert cells.held(slot) == (shared if copied else 0)
    assert cells.operations() == ((Copy(0, slot, shared),) if copied else ())


def test_the_last_token_is_always_computed() -> None:
    cells = make()
    keep_idle(cells, PREFIX)
    assert cells.look_up(PREFIX).ready.length == len(PREFIX) - 1
    slot = start(cells, PREFIX)
    assert cells.operations() == (Trim(slot, len(PREFIX) - 1),)


@pytest.mark.parametrize("shared", [WORTH_COPYING - 1, WORTH_COPYING])
def test_only_what_is_worth_copying_is_waited_for(shared: int) -> None:
    cells = make()
    slot = start(cells, [*PREFIX, 1])
    hit = cells.look_up([*PREFIX[:shared], 2])
    assert hit.gain == (shared if shared >= WORTH_COPYING else 0)
    assert hit.pinned == 0  # a copy has cells of its own
    cells.wait_for(hit)
    cells.take(slot, [*PREFIX, 1])
    assert cells.look_up([*PREFIX, 2]).ready.length == len(PREFIX)
    assert cells.until_snapshot(slot) is None


def test_a_newcomer_takes_the_least_recently_used_id() -> None:
    cells = make()
    keep_idle(cells, tokens_of(1, 5), tokens_of(2, 5), tokens_of(3, 5))
    end(cells, run(cells, [*tokens_of(1, 5), 1]))  # used again
    cells.operations()
    slot = start(cells, tokens_of(4, 5))
    assert slot == 1
    assert cells.operations() == (Trim(1, 0),)


def test_recent_use_counts_from_the_end_of_a_request_and_not_from_its_start() -> None:
    cells = make(slots=2)
    first, second = run(cells, tokens_of(1, 5)), run(cells, tokens_of(2, 5))
    end(cells, second)
    end(cells, first)
    assert start(cells, tokens_of(3, 5)) == second


def test_the_empty_id_nearest_to_the_running_ones_is_taken() -> None:
    cells = make(slots=6)
    for id in range(5):
        start(cells, tokens_of(id, 5))
    for slot in (0, 1, 2):
        end(cells, slot)
    assert [start(cells, tokens_of(id, 5)) for id in (5, 6)] == [2, 1]


def test_an_empty_id_is_taken_before_an_idle_one() -> None:
    cells = make()
    keep_idle(cells, tokens_of(1, 5))
    assert start(cells, tokens_of(2, 5)) != 0
    assert known(cells, tokens_of(1, 5)) == 5


def test_a_branch_does_not_take_the_id_it_is_copied_from() -> None:
    cells = make(slots=2)
    keep_idle(cells, [*PREFIX, *tokens_of(1, 100)], tokens_of(2, 5))
    slot = start(cells, [*PREFIX, 1, 2])
    assert slot == 1
    assert cells.operations() == (Trim(1, 0), Copy(0, 1, len(PREFIX)))


def test_without_another_id_a_branch_takes_that_of_its_source() -> None:
    cells = make(slots=1)
    keep_idle(cells, [*PREFIX, *tokens_of(1, 100)])
    slot = start(cells, [*PREFIX, 1, 2])
    assert (slot, cells.held(slot)) == (0, len(PREFIX))
    assert cells.operations() == (Trim(0, len(PREFIX)),)


def test_a_sequence_that_has_computed_nothing_leaves_nothing() -> None:
    cells = make()
    slot = start(cells, tokens_of(1, 5))
    end(cells, slot)
    assert (cells.used, cells.free_slots) == (0, 3)
    assert known(cells, tokens_of(1, 5)) == 0


def test_tokens_that_were_not_computed_are_not_kept() -> None:
    cells = make()
    slot = start(cells, tokens_of(1, 9))
    cells.take(slot, tokens_of(1, 4))
    end(cells, slot)
    assert known(cells, tokens_of(1, 9)) == 4


def test_tokens_that_were_generated_are_kept_with_the_prompt() -> None:
    cells = make()
    slot = run(cells, tokens_of(1, 5))
    cells.take(slot, [7])
    cells.take(slot, [8])
    end(cells, slot)
    assert known(cells, [*tokens_of(1, 5), 7, 8]) == 7


def test_idle_ids_can_be_evicted_one_by_one() -> None:
    cells = make()
    keep_idle(cells, tokens_of(1, 5), tokens_of(2, 5))
    run(cells, tokens_of(3, 5))
    assert cells.evict_one()
    assert cells.evict_one()
    assert not cells.evict_one()
    assert cells.operations() == (Trim(0, 0), Trim(1, 0))
    assert cells.used == cells.pinned == 5


# Holes among the running ids


def torn(idle: int = 0) -> PartitionedCells:
    """Ids 0 and 2 run, and 1 is idle between them."""
    cells = make(idle=idle)
    slots = [run(cells, tokens_of(id, 5)) for id in range(3)]
    end(cells, slots[1])
    cells.operations()
    return cells


def test_neighbours_need_no_move() -> None:
    cells = make()
    for id in range(3):
        run(cells, tokens_of(id, 5))
    end(cells, 2)
    assert moves_of(cells, 10 * WORTH_MOVING) == []


def test_a_hole_that_stays_open_is_filled_with_the_last_one() -> None:
    cells = torn()
    assert moves_of(cells, WORTH_MOVING - 1) == []
    assert moves_of(cells, 1) == [(2, 1)]
    assert cells.held(1) == 5
    assert cells.free_slots == 1
    assert moves_of(cells, 10 * WORTH_MOVING) == []


def test_what_is_idle_in_the_hole_is_kept_under_an_empty_id() -> None:
    cells = torn(idle=1)
    moves_of(cells, WORTH_MOVING)
    assert cells.operations() == (Copy(1, 3, 5), Trim(1, 0), Copy(2, 1, 5), Trim(2, 0))
    assert known(cells, tokens_of(1, 5)) == 5


def test_what_is_idle_in_the_hole_is_lost_without_another_id() -> None:
    cells = torn()
    moves_of(cells, WORTH_MOVING)
    assert cells.operations() == (Trim(1, 0), Copy(2, 1, 5), Trim(2, 0))
    assert known(cells, tokens_of(1, 5)) == 0


def crowded() -> PartitionedCells:
    """Ids 0 and 2 run; of the idle ones 1, in the hole, was used before 3 and that before 4."""
    cells = make(slots=3, idle=2)
    slots = [run(cells, tokens_of(id, 5)) for id in range(3)]
    end(cells, slots[1])
    for id in (3, 4):
        slot = run(cells, tokens_of(id, 5))
        assert slot == id
        end(cells, slot)
    cells.operations()
    return cells


def test_what_is_idle_in_the_hole_replaces_what_was_used_even_longer_ago() -> None:
    cells = crowded()
    end(cells, run(cells, [*tokens_of(1, 5), 7]))  # used again
    moves_of(cells, WORTH_MOVING)
    assert cells.operations() == (
        Trim(3, 0),
        Copy(1, 3, 6),
        Trim(1, 0),
        Copy(2, 1, 5),
        Trim(2, 0),
    )
    assert [known(cells, tokens_of(id, 5)) for id in (1, 3, 4)] == [5, 0, 5]


def test_what_is_idle_in_the_hole_replaces_nothing_that_was_used_later() -> None:
    cells = crowded()
    moves_of(cells, WORTH_MOVING)
    assert cells.operations() == (Trim(1, 0), Copy(2, 1, 5), Trim(2, 0))
    assert [known(cells, tokens_of(id, 5)) for id in (1, 3, 4)] == [0, 5, 5]


def test_each_hole_counts_and_each_move_begins_to_count_anew() -> None:
    cells = make(slots=7)
    for id in range(7):
        run(cells, tokens_of(id, 5))
    for slot in (1, 3, 5):
        end(cells, slot)
    steps = -(-WORTH_MOVING // 3)  # three holes, so three passes more in each step
    assert moves_of(cells, steps - 1) == []
    assert moves_of(cells, 1) == [(6, 1)]
    assert moves_of(cells, WORTH_MOVING - 1) == []  # one hole is left
    assert moves_of(cells, 1) == [(4, 3)]


def test_a_hole_that_is_closed_in_time_costs_nothing() -> None:
    cells = torn()
    moves_of(cells, WORTH_MOVING - 1)
    run(cells, [*tokens_of(1, 5), 7])
    assert moves_of(cells, WORTH_MOVING - 1) == []
    end(cells, 1)
    assert moves_of(cells, WORTH_MOVING - 1) == []


def test_a_moved_sequence_goes_on_as_before() -> None:
    cells = torn()
    moves_of(cells, WORTH_MOVING)
    cells.take(1, [7])
    end(cells, 1)
    assert known(cells, [*tokens_of(2, 5), 7]) == 6


def test_a_sequence_that_has_computed_nothing_moves_without_a_copy() -> None:
    cells = make()
    slots = [run(cells, tokens_of(id, 5)) for id in range(2)]
    start(cells, tokens_of(3, 5))
    end(cells, slots[1])
    cells.operations()
    assert moves_of(cells, WORTH_MOVING) == [(2, 1)]
    operations: tuple[Operation, ...] = cells.operations()
    assert not any(isinstance(each, Copy) for each in operations)


def test_a_hole_before_all_that_run_is_none() -> None:
    cells = make(slots=4)
    slots = [run(cells, tokens_of(id, 5)) for id in range(4)]
    end(cells, slots[0])
    assert moves_of(cells, 10 * WORTH_MOVING) == []
    end(cells, slots[2])
    assert moves_of(cells, WORTH_MOVING) == [(3, 2)]


def test_after_a_clear_nothing_is_known_and_everything_is_free() -> None:
    cells = make(slots=2, idle=1)
    end(cells, run(cells, PREFIX))
    run(cells, tokens_of(2, 50))
    cells.clear()
    cells.check()
    assert cells.operations() == (Clear(),), "what was to be done before is done by it"
    assert (cells.used, cells.pinned, cells.free_slots) == (0, 0, 2)
    assert cells.look_up([*PREFIX, 1]).ready.length == 0
    assert [run(cells, tokens_of(id, 5)) for id in (1, 2)] == [0, 1]
