"""One pool of cells: which ids hold which tokens, what is shared, what is kept, and what is
evicted."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gguf_worker.engine.cells.unified import TRIM_CELLS, Clear, Copy, Trim, UnifiedCells

PREFIX = list(range(100, 120))
SLOTS = 3


def make(cells: int = 1000, idle: int = 3, keep: int | None = None) -> UnifiedCells:
    """Attention over the whole context; the idle ids are 3, 4 and so on."""
    return UnifiedCells(cells, SLOTS, idle, rollback=True, keep=keep)


def make_snapshots(cells: int = 1000, idle: int = 3) -> UnifiedCells:
    return UnifiedCells(cells, SLOTS, idle, rollback=False)


def start(cells: UnifiedCells, tokens: list[int], *reuse_points: int) -> int:
    slot = cells.claim(tokens, cells.look_up(tokens), reuse_points)
    cells.check()
    return slot


def compute(cells: UnifiedCells, slot: int, tokens: list[int], upto: int | None = None) -> None:
    """Compute `tokens` of `slot` as far as position `upto`, or all, pausing at reuse_points."""
    upto = len(tokens) if upto is None else upto
    while (at := cells.held(slot)) < upto:
        count = min(upto - at, cells.until_snapshot(slot) or upto - at)
        cells.take(slot, tokens[at : at + count])
        cells.check()


def run(cells: UnifiedCells, tokens: list[int], *reuse_points: int) -> int:
    """A sequence that has computed all its tokens."""
    slot = start(cells, tokens, *reuse_points)
    compute(cells, slot, tokens)
    return slot


def end(cells: UnifiedCells, slot: int) -> None:
    cells.retire(slot)
    cells.check()


def keep_idle(cells: UnifiedCells, *prompts: list[int]) -> None:
    """Requests that were computed and have ended, one after another."""
    for tokens in prompts:
        end(cells, run(cells, tokens))
    cells.operations()


def known(cells: UnifiedCells, tokens: list[int]) -> int:
    """Count how many of `tokens`, with one more after them, need not be computed."""
    return cells.look_up([*tokens, -1]).ready.length


# Running sequences


def test_ids_are_handed_out_lowest_first_and_again_after_an_end() -> None:
    cells = make()
    assert [start(cells, [id]) for id in range(3)] == [0, 1, 2]
    assert cells.free_slots == 0
    end(cells, 2)
    end(cells, 0)
    assert [start(cells, [8]), start(cells, [9])] == [0, 2]


def test_no_id_can_be_claimed_when_all_run() -> None:
    cells = make()
    for id in range(SLOTS):
        start(cells, [id])
    with pytest.raises(IndexError):
        start(cells, [9])


def test_cells_are_counted_as_they_are_computed() -> None:
    cells = make(10)
    slot = start(cells, [1, 2, 3, 4])
    assert (cells.held(slot), cells.used, cells.pinned, cells.free) == (0, 0, 0, 10)
    cells.take(slot, [1, 2, 3])
    assert (cells.held(slot), cells.used, cells.pinned, cells.free) == (3, 3, 3, 7)
    cells.check()


def test_cells_that_are_not_there_cannot_be_taken() -> None:
    cells = make(4)
    slot = run(cells, [1, 2, 3, 4])
    with pytest.raises(AssertionError, match="not there"):
        cells.take(slot, [5])


def test_an_id_that_does_not_run_cannot_be_retired() -> None:
    cells = make()
    slot = run(cells, [1])
    end(cells, slot)
    with pytest.raises(KeyError):
        cells.retire(slot)


# Sharing


def test_a_newcomer_shares_the_cells_of_a_common_prefix_with_one_that_runs() -> None:
    cells = make()
    run(cells, [*PREFIX, 1, 2])
    second = start(cells, [*PREFIX, 7, 8])
    assert cells.operations() == (Copy(0, second, 20),)
    assert (cells.held(second), cells.used, cells.pinned) == (20, 22, 22)


def test_the_last_token_is_always_computed() -> None:
    cells = make()
    run(cells, PREFIX)
    assert cells.look_up(PREFIX).ready.length == len(PREFIX) - 1
    assert cells.look_up(PREFIX[:1]).ready.length == 0


def test_a_prompt_is_not_shared_beyond_where_it_parts() -> None:
    cells = make()
    run(cells, PREFIX)
    assert cells.look_up([*PREFIX[:7], 1, 2, 3]).ready.length == 7


def test_cells_that_several_share_are_free_when_the_last_one_has_gone() -> None:
    cells = make(idle=0)
    first = run(cells, [*PREFIX, 1])
    second = run(cells, [*PREFIX, 2])
    end(cells, first)
    assert cells.used == cells.pinned == 21
    end(cells, second)
    assert cells.used == cells.pinned == 0


def test_a_sequence_that_goes_on_where_others_branched_off_gets_cells_of_its_own() -> None:
    cells = make()
    first = run(cells, PREFIX)
    second = run(cells, [*PREFIX, 1])
    compute(cells, first, [*PREFIX, 2, 3])
    assert (cells.held(first), cells.held(second), cells.used) == (22, 21, 23)
    assert known(cells, [*PREFIX, 2, 3]) == 22
    assert known(cells, [*PREFIX, 1]) == 21


def test_the_pinned_part_of_a_hit_is_what_running_ones_hold() -> None:
    cells = make()
    keep_idle(cells, [*PREFIX, 1, 2])
    run(cells, [*PREFIX, 7])
    hit = cells.look_up([*PREFIX, 1, 2, 3])
    assert (hit.ready.length, hit.pinned) == (22, 20)


def test_tokens_that_are_being_computed_can_be_waited_for() -> None:
    cells = make()
    slot = start(cells, [*PREFIX, 1])
    hit = cells.look_up([*PREFIX, 2])
    assert (hit.ready.length, hit.awaited.length, hit.gain) == (0, 20, 20)
    cells.take(slot, PREFIX[:5])
    assert cells.look_up([*PREFIX, 2]).gain == 15
    cells.take(slot, [*PREFIX[5:], 1])
    assert cells.look_up([*PREFIX, 2]).gain <= 0


def test_tokens_that_their_owner_no_longer_computes_are_not_waited_for() -> None:
    cells = make()
    slot = start(cells, [*PREFIX, 1])
    cells.take(slot, PREFIX[:5])
    end(cells, slot)
    hit = cells.look_up([*PREFIX, 2])
    assert (hit.ready.length, hit.gain) == (5, -5)


def test_a_sequence_that_ends_where_another_one_stands_leaves_that_one_alone() -> None:
    cells = make()
    first = run(cells, PREFIX)
    second = start(cells, [*PREFIX, 1])
    cells.operations()
    end(cells, second)
    assert cells.operations() == (Trim(second, 0),)
    compute(cells, first, [*PREFIX, 2])
    assert known(cells, [*PREFIX, 2]) == 21


# Resting


def test_an_ended_sequence_is_kept_under_an_idle_id() -> None:
    cells = make()
    slot = run(cells, PREFIX)
    end(cells, slot)
    assert cells.operations() == (Copy(slot, 3, 20), Trim(slot, 0))
    assert (cells.held(slot), cells.held(3)) == (0, 20)
    assert (cells.used, cells.pinned, cells.free_slots) == (20, 0, SLOTS)


def test_tokens_that_were_not_computed_are_not_kept() -> None:
    cells = make()
    slot = start(cells, PREFIX)
    compute(cells, slot, PREFIX, upto=6)
    end(cells, slot)
    assert known(cells, PREFIX) == 6


def test_a_sequence_that_has_computed_nothing_leaves_nothing() -> None:
    cells = make()
    slot = start(cells, PREFIX)
    end(cells, slot)
    assert cells.operations() == (Trim(slot, 0),)
    assert cells.used == 0


def test_the_next_turn_takes_over_what_is_idle_and_frees_its_id() -> None:
    cells = make(idle=1)
    keep_idle(cells, PREFIX)
    slot = start(cells, [*PREFIX, 1, 2])
    assert cells.operations() == (Copy(3, slot, 20), Trim(3, 0))
    assert (cells.held(slot), cells.used, cells.pinned) == (20, 20, 20)


def test_a_branch_leaves_what_is_idle_as_it_is() -> None:
    cells = make()
    keep_idle(cells, PREFIX)
    slot = start(cells, [*PREFIX[:8], 1, 2])
    assert cells.operations() == (Copy(3, slot, 8),)
    assert (cells.held(3), cells.used, cells.pinned) == (20, 20, 8)


def test_what_others_hold_anyway_is_not_kept_twice() -> None:
    cells = make()
    first = run(cells, PREFIX)
    run(cells, [*PREFIX, 1])
    cells.operations()
    end(cells, first)
    assert cells.operations() == (Trim(first, 0),)


def test_the_same_tokens_computed_twice_are_kept_once() -> None:
    cells = make()
    first, second = start(cells, PREFIX), start(cells, PREFIX)
    for slot in (first, second):
        compute(cells, slot, PREFIX)
    assert cells.used == 40
    end(cells, first)
    assert cells.used == 20
    end(cells, second)
    assert (cells.used, known(cells, PREFIX)) == (20, 20)


def test_those_that_part_after_tokens_computed_twice_are_both_kept() -> None:
    cells = make()
    prompts = ([*PREFIX, 1, 2], [*PREFIX, 3])
    slots = [start(cells, tokens) for tokens in prompts]
    for slot, tokens in zip(slots, prompts, strict=True):
        compute(cells, slot, tokens)
    for slot in slots:
        end(cells, slot)
    assert [known(cells, tokens) for tokens in prompts] == [22, 21]


def test_a_longer_sequence_replaces_the_same_idle_tokens() -> None:
    cells = make()
    short, long = start(cells, PREFIX[:8]), start(cells, PREFIX)
    compute(cells, short, PREFIX[:8])
    end(cells, short)
    compute(cells, long, PREFIX)
    assert cells.used == 28
    end(cells, long)
    assert (cells.used, known(cells, PREFIX)) == (20, 20)
    assert cells.evict_one()
    assert not cells.evict_one()


def test_where_no_id_is_left_the_least_recently_used_is_evicted() -> None:
    cells = make(idle=2)
    keep_idle(cells, [1] * 4, [2] * 4)
    keep_idle(cells, [3] * 4)
    assert [known(cells, [token] * 4) for token in (1, 2, 3)] == [0, 4, 4]


def test_what_ended_the_longest_ago_is_evicted_whatever_its_id_and_start() -> None:
    cells = make(idle=2)
    keep_idle(cells, [9] * 4)
    late, early = run(cells, [1] * 4), run(cells, [2] * 4)
    end(cells, early)
    assert cells.evict_one()  # so that the one that ends last is kept under the lower id
    end(cells, late)
    assert (cells.held(3), cells.held(4)) == (4, 4)
    assert cells.evict_one()
    assert (known(cells, [1] * 4), known(cells, [2] * 4)) == (4, 0)


def test_without_idle_ids_nothing_is_kept() -> None:
    cells = make(idle=0)
    keep_idle(cells, PREFIX)
    assert cells.used == 0
    assert not cells.evict_one()


def test_no_more_cells_are_kept_than_allowed() -> None:
    cells = make(keep=25)
    keep_idle(cells, [1] * 10, [2] * 10)
    assert cells.used == 20
    keep_idle(cells, PREFIX)
    assert cells.used <= 25
    assert known(cells, PREFIX) == 20


def test_cells_that_run_do_not_count_among_those_that_are_kept() -> None:
    cells = make(keep=20)
    run(cells, [1] * 50)
    keep_idle(cells, PREFIX)
    assert known(cells, PREFIX) == 20


# Making room


def test_the_least_recently_used_is_evicted_and_what_runs_is_not() -> None:
    cells = make(60)
    run(cells, [9] * 20)
    keep_idle(cells, [1] * 20, [2] * 20)
    assert cells.evict_for(15)
    cells.check()
    assert (known(cells, [9] * 20), known(cells, [1] * 20), known(cells, [2] * 20)) == (20, 0, 20)


def test_nothing_is_evicted_where_too_much_runs() -> None:
    cells = make(40)
    run(cells, [9] * 20)
    keep_idle(cells, [1] * 20)
    assert not cells.evict_for(21)
    assert (cells.used, cells.operations()) == (40, ())
    assert cells.evict_for(20)


def test_cells_that_are_free_already_evict_nobody() -> None:
    cells = make(40)
    keep_idle(cells, [1] * 20)
    assert cells.evict_for(20)
    assert (cells.used, cells.operations()) == (20, ())


def test_a_long_idle_sequence_is_shortened_from_its_end() -> None:
    cells = make(1000)
    tokens = list(range(1000))
    keep_idle(cells, tokens)
    assert cells.evict_for(1)
    assert cells.operations() == (Trim(3, 1000 - TRIM_CELLS),)
    assert known(cells, tokens) == 1000 - TRIM_CELLS
    cells.check()


def test_tokens_that_were_generated_one_by_one_are_shortened_together() -> None:
    cells = make(1000)
    slot = run(cells, PREFIX)
    for token in range(980):
        cells.take(slot, [token])
    end(cells, slot)
    cells.operations()
    assert cells.evict_for(1)
    assert cells.operations() == (Trim(3, 1000 - TRIM_CELLS),)


def test_an_idle_sequence_shortened_beyond_a_branch_ends_where_that_begins() -> None:
    cells = make(30)
    keep_idle(cells, PREFIX)
    keep_idle(cells, [*PREFIX[:8], 1, 2])  # the end of the first one is the older now
    assert cells.evict_for(9)
    assert cells.operations() == (Trim(3, 0),)  # another one holds what went before
    cells.check()
    assert known(cells, PREFIX) == 8
    assert known(cells, [*PREFIX[:8], 1, 2]) == 10
    assert cells.evict_for(21)
    assert cells.operations() == (Trim(4, 8),)
    cells.check()
    assert (known(cells, [*PREFIX[:8], 1, 2]), cells.used) == (8, 8)
    assert cells.evict_for(30)
    cells.check()
    assert cells.used == 0


def test_nothing_is_kept_where_a_running_sequence_stands() -> None:
    cells = make(30)
    run(cells, PREFIX)
    keep_idle(cells, [*PREFIX, 1, 2])
    assert cells.evict_for(10)
    assert cells.operations() == (Trim(3, 0),)
    cells.check()


def test_a_prefix_in_use_stays_when_what_follows_it_is_evicted() -> None:
    cells = make(30)
    keep_idle(cells, PREFIX)
    run(cells, [*PREFIX[:8], 1, 2])
    assert cells.evict_for(20)
    cells.check()
    assert (cells.used, cells.pinned) == (10, 10)


def test_idle_ids_can_be_evicted_one_by_one() -> None:
    cells = make()
    keep_idle(cells, [1] * 4, [2] * 4)
    assert cells.evict_one()
    assert (known(cells, [1] * 4), known(cells, [2] * 4)) == (0, 4)
    assert cells.evict_one()
    assert not cells.evict_one()
    assert cells.used == 0


# Memories without rollback


def test_without_rollback_only_a_whole_state_can_be_taken_over() -> None:
    cells = make_snapshots()
    keep_idle(cells, PREFIX)
    assert known(cells, PREFIX[:19]) == 0
    slot = start(cells, [*PREFIX, 1])
    assert cells.operations() == (Copy(3, slot, 20),)
    assert cells.held(3) == 20  # and stays for the next one


def test_a_snapshot_is_left_at_each_reuse_point() -> None:
    cells = make_snapshots()
    slot = start(cells, PREFIX, 5, 12)
    assert cells.until_snapshot(slot) == 5
    cells.take(slot, PREFIX[:5])
    assert cells.operations() == (Copy(slot, 3, 5),)
    assert cells.until_snapshot(slot) == 7
    cells.take(slot, PREFIX[5:12])
    assert cells.operations() == (Copy(slot, 4, 12),)
    assert cells.until_snapshot(slot) is None
    assert [known(cells, PREFIX[:at]) for at in (4, 5, 11, 12, 19)] == [0, 5, 5, 12, 12]
    assert (cells.used, cells.pinned) == (12, 12)
    cells.check()


@pytest.mark.parametrize("reuse_point", [0, 20, 27])
def test_a_reuse_point_that_is_not_inside_the_prompt_is_none(reuse_point: int) -> None:
    cells = make_snapshots()
    assert cells.until_snapshot(start(cells, PREFIX, reuse_point)) is None


def test_a_reuse_point_in_what_was_taken_over_is_none() -> None:
    cells = make_snapshots()
    keep_idle(cells, PREFIX)
    assert cells.until_snapshot(start(cells, [*PREFIX, 1, 2], 7, 20, 21)) == 1


def test_with_rollback_there_are_no_snapshots() -> None:
    cells = make()
    assert cells.until_snapshot(start(cells, PREFIX, 5)) is None


def test_an_ended_sequence_has_no_snapshot_ahead() -> None:
    cells = make_snapshots()
    slot = start(cells, PREFIX, 5)
    end(cells, slot)
    assert cells.until_snapshot(slot) is None


def test_a_snapshot_is_as_new_as_the_moment_when_it_was_left() -> None:
    cells = make_snapshots(idle=2)
    slow = start(cells, PREFIX, 5)
    keep_idle(cells, [1] * 20)
    other = run(cells, [2] * 20)
    compute(cells, slow, PREFIX, upto=5)
    end(cells, other)
    assert (known(cells, PREFIX[:5]), known(cells, [1] * 20), known(cells, [2] * 20)) == (5, 0, 20)


def test_a_sequence_that_is_waited_for_leaves_a_snapshot_where_the_prompts_part() -> None:
    cells = make_snapshots()
    slot = start(cells, [*PREFIX, 1])
    hit = cells.look_up([*PREFIX, 2, 3])
    assert hit.gain == 20
    cells.wait_for(hit)
    assert cells.until_snapshot(slot) == 20
    compute(cells, slot, [*PREFIX, 1])
    assert known(cells, PREFIX) == 20


def test_a_sequence_that_stands_where_the_prompts_part_leaves_a_snapshot_at_once() -> None:
    cells = make_snapshots()
    slot = run(cells, PREFIX)
    cells.wait_for(cells.look_up([*PREFIX, 2, 3]))
    cells.check()
    assert cells.operations() == (Copy(slot, 3, 20),)
    assert known(cells, PREFIX) == 20


def test_no_request_waits_for_a_snapshot_where_none_can_be_left() -> None:
    cells = make_snapshots(idle=0)
    slot = start(cells, PREFIX, 5)
    assert cells.until_snapshot(slot) is None
    assert cells.look_up([*PREFIX, 2]).gain <= 0


def test_without_rollback_the_same_state_is_kept_once() -> None:
    cells = make_snapshots()
    first, second = start(cells, PREFIX), start(cells, PREFIX)
    for slot in (first, second):
        compute(cells, slot, PREFIX)
        end(cells, slot)
    assert cells.used == 20


def test_a_sequence_that_ends_on_a_state_that_another_one_continues_keeps_it() -> None:
    cells = make_snapshots()
    first = run(cells, PREFIX)
    cells.wait_for(cells.look_up([*PREFIX, 1]))
    second = start(cells, [*PREFIX, 1])
    assert cells.evict_one()  # the snapshot between them
    end(cells, second)
    compute(cells, first, [*PREFIX, 2])
    cells.check()
    assert known(cells, PREFIX) == 20


def test_a_sequence_that_ends_on_the_last_idle_state_takes_over_its_id() -> None:
    cells = make_snapshots(idle=1)
    first = run(cells, PREFIX)
    cells.wait_for(cells.look_up([*PREFIX, 1]))
    end(cells, run(cells, [*PREFIX, 1, 2]))
    assert known(cells, [*PREFIX, 1, 2]) == 22
    end(cells, first)
    assert (known(cells, PREFIX), cells.used) == (20, 20)


def test_a_snapshot_that_is_used_stays_longer_than_one_that_is_not() -> None:
    cells = make_snapshots(idle=2)
    keep_idle(cells, PREFIX, [1] * 20)
    start(cells, [*PREFIX, 1])
    keep_idle(cells, [2] * 20)
    assert (known(cells, PREFIX), known(cells, [1] * 20)) == (20, 0)


def test_a_snapshot_was_used_until_the_last_one_that_began_with_it_has_ended() -> None:
    cells = make_snapshots(idle=3)
    keep_idle(cells, PREFIX)
    slot = run(cells, [*PREFIX, 1])
    keep_idle(cells, [1] * 20)
    end(cells, slot)
    assert cells.evict_one()
    assert (known(cells, PREFIX), known(cells, [1] * 20)) == (20, 0)


def test_without_rollback_a_sequence_is_evicted_whole() -> None:
    cells = make_snapshots(60)
    keep_idle(cells, [1] * 20, [2] * 20)
    assert cells.evict_for(21)
    assert cells.operations() == (Trim(3, 0),)
    assert cells.used == 20
    cells.check()


@pytest.mark.parametrize("make", [make, make_snapshots])
def test_after_a_clear_nothing_is_known_and_everything_is_free(
    make: Callable[[], UnifiedCells],
) -> None:
    cells = make()
    end(cells, run(cells, PREFIX, 5))
    run(cells, [*PREFIX, 1], 8)
    cells.clear()
    cells.check()
    assert cells.operations() == (Clear(),), "what was to be done before is done by it"
    assert (cells.used, cells.pinned, cells.free_slots) == (0, 0, SLOTS)
    assert cells.look_up([*PREFIX, 1]).ready.length == 0
    for slot in range(SLOTS):
        assert run(cells, [slot, *PREFIX]) == slot
