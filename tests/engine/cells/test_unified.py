"""One pool of cells: who holds which tokens, what is shared, what is kept, and who makes room."""

from __future__ import annotations

import pytest

from gguf_worker.engine.cells.unified import TRIM_CELLS, Copy, Trim, UnifiedCells

PREFIX = list(range(100, 120))
SLOTS = 3


def make(cells: int = 1000, resting: int = 3, keep: int | None = None) -> UnifiedCells:
    """Attention over the whole context; the ids that rest are 3, 4 and so on."""
    return UnifiedCells(cells, SLOTS, resting, rollback=True, keep=keep)


def make_snapshots(cells: int = 1000, resting: int = 3) -> UnifiedCells:
    return UnifiedCells(cells, SLOTS, resting, rollback=False)


def start(kv: UnifiedCells, tokens: list[int], *reuse_points: int) -> int:
    slot = kv.claim(tokens, kv.look_up(tokens), reuse_points)
    kv.check()
    return slot


def compute(kv: UnifiedCells, slot: int, tokens: list[int], upto: int | None = None) -> None:
    """Compute `tokens` of `slot` as far as position `upto`, or all, pausing at reuse_points."""
    upto = len(tokens) if upto is None else upto
    while (at := kv.held(slot)) < upto:
        count = min(upto - at, kv.until_border(slot) or upto - at)
        kv.take(slot, tokens[at : at + count])
        kv.check()


def run(kv: UnifiedCells, tokens: list[int], *reuse_points: int) -> int:
    """A sequence that has computed all its tokens."""
    slot = start(kv, tokens, *reuse_points)
    compute(kv, slot, tokens)
    return slot


def end(kv: UnifiedCells, slot: int) -> None:
    kv.retire(slot)
    kv.check()


def rest(kv: UnifiedCells, *prompts: list[int]) -> None:
    """Requests that were computed and have ended, one after another."""
    for tokens in prompts:
        end(kv, run(kv, tokens))
    kv.operations()


def known(kv: UnifiedCells, tokens: list[int]) -> int:
    """How many of `tokens`, with one more after them, need not be computed."""
    return kv.look_up([*tokens, -1]).ready.length


# Running sequences


def test_ids_are_handed_out_lowest_first_and_again_after_an_end() -> None:
    kv = make()
    assert [start(kv, [id]) for id in range(3)] == [0, 1, 2]
    assert kv.free_slots == 0
    end(kv, 2)
    end(kv, 0)
    assert [start(kv, [8]), start(kv, [9])] == [0, 2]


def test_no_id_can_be_claimed_when_all_run() -> None:
    kv = make()
    for id in range(SLOTS):
        start(kv, [id])
    with pytest.raises(IndexError):
        start(kv, [9])


def test_cells_are_counted_as_they_are_computed() -> None:
    kv = make(10)
    slot = start(kv, [1, 2, 3, 4])
    assert (kv.held(slot), kv.used, kv.pinned, kv.free) == (0, 0, 0, 10)
    kv.take(slot, [1, 2, 3])
    assert (kv.held(slot), kv.used, kv.pinned, kv.free) == (3, 3, 3, 7)
    kv.check()


def test_cells_that_are_not_there_cannot_be_taken() -> None:
    kv = make(4)
    slot = run(kv, [1, 2, 3, 4])
    with pytest.raises(AssertionError, match="not there"):
        kv.take(slot, [5])


def test_an_id_that_does_not_run_cannot_be_retired() -> None:
    kv = make()
    slot = run(kv, [1])
    end(kv, slot)
    with pytest.raises(KeyError):
        kv.retire(slot)


# Sharing


def test_a_newcomer_shares_the_cells_of_a_common_prefix_with_one_that_runs() -> None:
    kv = make()
    run(kv, [*PREFIX, 1, 2])
    second = start(kv, [*PREFIX, 7, 8])
    assert kv.operations() == (Copy(0, second, 20),)
    assert (kv.held(second), kv.used, kv.pinned) == (20, 22, 22)


def test_the_last_token_is_always_computed() -> None:
    kv = make()
    run(kv, PREFIX)
    assert kv.look_up(PREFIX).ready.length == len(PREFIX) - 1
    assert kv.look_up(PREFIX[:1]).ready.length == 0


def test_a_prompt_is_not_shared_beyond_where_it_parts() -> None:
    kv = make()
    run(kv, PREFIX)
    assert kv.look_up([*PREFIX[:7], 1, 2, 3]).ready.length == 7


def test_cells_that_several_share_are_free_when_the_last_one_has_gone() -> None:
    kv = make(resting=0)
    first = run(kv, [*PREFIX, 1])
    second = run(kv, [*PREFIX, 2])
    end(kv, first)
    assert kv.used == kv.pinned == 21
    end(kv, second)
    assert kv.used == kv.pinned == 0


def test_who_goes_on_where_others_branched_off_gets_cells_of_its_own() -> None:
    kv = make()
    first = run(kv, PREFIX)
    second = run(kv, [*PREFIX, 1])
    compute(kv, first, [*PREFIX, 2, 3])
    assert (kv.held(first), kv.held(second), kv.used) == (22, 21, 23)
    assert known(kv, [*PREFIX, 2, 3]) == 22
    assert known(kv, [*PREFIX, 1]) == 21


def test_the_pinned_part_of_a_hit_is_what_running_ones_hold() -> None:
    kv = make()
    rest(kv, [*PREFIX, 1, 2])
    run(kv, [*PREFIX, 7])
    hit = kv.look_up([*PREFIX, 1, 2, 3])
    assert (hit.ready.length, hit.pinned) == (22, 20)


def test_what_is_being_computed_can_be_waited_for() -> None:
    kv = make()
    slot = start(kv, [*PREFIX, 1])
    hit = kv.look_up([*PREFIX, 2])
    assert (hit.ready.length, hit.awaited.length, hit.gain) == (0, 20, 20)
    kv.take(slot, PREFIX[:5])
    assert kv.look_up([*PREFIX, 2]).gain == 15
    kv.take(slot, [*PREFIX[5:], 1])
    assert kv.look_up([*PREFIX, 2]).gain <= 0


def test_what_its_owner_does_not_compute_any_more_is_not_waited_for() -> None:
    kv = make()
    slot = start(kv, [*PREFIX, 1])
    kv.take(slot, PREFIX[:5])
    end(kv, slot)
    hit = kv.look_up([*PREFIX, 2])
    assert (hit.ready.length, hit.gain) == (5, -5)


def test_who_ends_where_another_one_stands_leaves_that_one_alone() -> None:
    kv = make()
    first = run(kv, PREFIX)
    second = start(kv, [*PREFIX, 1])
    kv.operations()
    end(kv, second)
    assert kv.operations() == (Trim(second, 0),)
    compute(kv, first, [*PREFIX, 2])
    assert known(kv, [*PREFIX, 2]) == 21


# Resting


def test_who_has_ended_rests_under_another_id() -> None:
    kv = make()
    slot = run(kv, PREFIX)
    end(kv, slot)
    assert kv.operations() == (Copy(slot, 3, 20), Trim(slot, 0))
    assert (kv.held(slot), kv.held(3)) == (0, 20)
    assert (kv.used, kv.pinned, kv.free_slots) == (20, 0, SLOTS)


def test_tokens_that_were_not_computed_do_not_rest() -> None:
    kv = make()
    slot = start(kv, PREFIX)
    compute(kv, slot, PREFIX, upto=6)
    end(kv, slot)
    assert known(kv, PREFIX) == 6


def test_who_has_computed_nothing_leaves_nothing() -> None:
    kv = make()
    slot = start(kv, PREFIX)
    end(kv, slot)
    assert kv.operations() == (Trim(slot, 0),)
    assert kv.used == 0


def test_the_next_turn_takes_over_what_rests_and_frees_its_id() -> None:
    kv = make(resting=1)
    rest(kv, PREFIX)
    slot = start(kv, [*PREFIX, 1, 2])
    assert kv.operations() == (Copy(3, slot, 20), Trim(3, 0))
    assert (kv.held(slot), kv.used, kv.pinned) == (20, 20, 20)


def test_a_branch_leaves_what_rests_where_it_is() -> None:
    kv = make()
    rest(kv, PREFIX)
    slot = start(kv, [*PREFIX[:8], 1, 2])
    assert kv.operations() == (Copy(3, slot, 8),)
    assert (kv.held(3), kv.used, kv.pinned) == (20, 20, 8)


def test_what_others_hold_anyway_does_not_rest() -> None:
    kv = make()
    first = run(kv, PREFIX)
    run(kv, [*PREFIX, 1])
    kv.operations()
    end(kv, first)
    assert kv.operations() == (Trim(first, 0),)


def test_the_same_tokens_computed_twice_rest_once() -> None:
    kv = make()
    first, second = start(kv, PREFIX), start(kv, PREFIX)
    for slot in (first, second):
        compute(kv, slot, PREFIX)
    assert kv.used == 40
    end(kv, first)
    assert kv.used == 20
    end(kv, second)
    assert (kv.used, known(kv, PREFIX)) == (20, 20)


def test_those_that_part_after_tokens_computed_twice_both_rest() -> None:
    kv = make()
    prompts = ([*PREFIX, 1, 2], [*PREFIX, 3])
    slots = [start(kv, tokens) for tokens in prompts]
    for slot, tokens in zip(slots, prompts, strict=True):
        compute(kv, slot, tokens)
    for slot in slots:
        end(kv, slot)
    assert [known(kv, tokens) for tokens in prompts] == [22, 21]


def test_a_longer_one_takes_the_place_of_the_same_tokens_at_rest() -> None:
    kv = make()
    short, long = start(kv, PREFIX[:8]), start(kv, PREFIX)
    compute(kv, short, PREFIX[:8])
    end(kv, short)
    compute(kv, long, PREFIX)
    assert kv.used == 28
    end(kv, long)
    assert (kv.used, known(kv, PREFIX)) == (20, 20)
    assert kv.release_one()
    assert not kv.release_one()


def test_where_no_id_is_left_the_least_recently_used_goes() -> None:
    kv = make(resting=2)
    rest(kv, [1] * 4, [2] * 4)
    rest(kv, [3] * 4)
    assert [known(kv, [token] * 4) for token in (1, 2, 3)] == [0, 4, 4]


def test_who_ended_the_longest_ago_goes_whatever_its_id_and_however_late_it_came() -> None:
    kv = make(resting=2)
    rest(kv, [9] * 4)
    late, early = run(kv, [1] * 4), run(kv, [2] * 4)
    end(kv, early)
    assert kv.release_one()  # so that the one that ends last rests under the lower id
    end(kv, late)
    assert (kv.held(3), kv.held(4)) == (4, 4)
    assert kv.release_one()
    assert (known(kv, [1] * 4), known(kv, [2] * 4)) == (4, 0)


def test_without_ids_to_rest_nothing_rests() -> None:
    kv = make(resting=0)
    rest(kv, PREFIX)
    assert kv.used == 0
    assert not kv.release_one()


def test_no_more_cells_are_kept_than_allowed() -> None:
    kv = make(keep=25)
    rest(kv, [1] * 10, [2] * 10)
    assert kv.used == 20
    rest(kv, PREFIX)
    assert kv.used <= 25
    assert known(kv, PREFIX) == 20


def test_cells_that_run_do_not_count_among_those_that_are_kept() -> None:
    kv = make(keep=20)
    run(kv, [1] * 50)
    rest(kv, PREFIX)
    assert known(kv, PREFIX) == 20


# Making room


def test_the_least_recently_used_makes_room_and_what_runs_does_not() -> None:
    kv = make(60)
    run(kv, [9] * 20)
    rest(kv, [1] * 20, [2] * 20)
    assert kv.make_room(15)
    kv.check()
    assert (known(kv, [9] * 20), known(kv, [1] * 20), known(kv, [2] * 20)) == (20, 0, 20)


def test_no_room_is_made_where_too_much_runs() -> None:
    kv = make(40)
    run(kv, [9] * 20)
    rest(kv, [1] * 20)
    assert not kv.make_room(21)
    assert (kv.used, kv.operations()) == (40, ())
    assert kv.make_room(20)


def test_room_that_is_there_already_costs_nobody_anything() -> None:
    kv = make(40)
    rest(kv, [1] * 20)
    assert kv.make_room(20)
    assert (kv.used, kv.operations()) == (20, ())


def test_a_long_one_at_rest_is_shortened_from_its_end() -> None:
    kv = make(1000)
    tokens = list(range(1000))
    rest(kv, tokens)
    assert kv.make_room(1)
    assert kv.operations() == (Trim(3, 1000 - TRIM_CELLS),)
    assert known(kv, tokens) == 1000 - TRIM_CELLS
    kv.check()


def test_tokens_that_were_generated_one_by_one_are_shortened_together() -> None:
    kv = make(1000)
    slot = run(kv, PREFIX)
    for token in range(980):
        kv.take(slot, [token])
    end(kv, slot)
    kv.operations()
    assert kv.make_room(1)
    assert kv.operations() == (Trim(3, 1000 - TRIM_CELLS),)


def test_who_rests_falls_back_to_what_went_before_when_it_is_shortened_beyond_a_branch() -> None:
    kv = make(30)
    rest(kv, PREFIX)
    rest(kv, [*PREFIX[:8], 1, 2])  # the end of the first one is the older now
    assert kv.make_room(9)
    assert kv.operations() == (Trim(3, 0),)  # another one holds what went before
    kv.check()
    assert known(kv, PREFIX) == 8
    assert known(kv, [*PREFIX[:8], 1, 2]) == 10
    assert kv.make_room(21)
    assert kv.operations() == (Trim(4, 8),)
    kv.check()
    assert (known(kv, [*PREFIX[:8], 1, 2]), kv.used) == (8, 8)
    assert kv.make_room(30)
    kv.check()
    assert kv.used == 0


def test_nobody_rests_where_another_one_stands() -> None:
    kv = make(30)
    run(kv, PREFIX)
    rest(kv, [*PREFIX, 1, 2])
    assert kv.make_room(10)
    assert kv.operations() == (Trim(3, 0),)
    kv.check()


def test_a_prefix_in_use_stays_when_the_rest_of_it_makes_room() -> None:
    kv = make(30)
    rest(kv, PREFIX)
    run(kv, [*PREFIX[:8], 1, 2])
    assert kv.make_room(20)
    kv.check()
    assert (kv.used, kv.pinned) == (10, 10)


def test_who_rests_can_be_let_go_one_by_one() -> None:
    kv = make()
    rest(kv, [1] * 4, [2] * 4)
    assert kv.release_one()
    assert (known(kv, [1] * 4), known(kv, [2] * 4)) == (0, 4)
    assert kv.release_one()
    assert not kv.release_one()
    assert kv.used == 0


# Memories without rollback


def test_without_rollback_only_a_whole_state_can_be_taken_over() -> None:
    kv = make_snapshots()
    rest(kv, PREFIX)
    assert known(kv, PREFIX[:19]) == 0
    slot = start(kv, [*PREFIX, 1])
    assert kv.operations() == (Copy(3, slot, 20),)
    assert kv.held(3) == 20  # and stays for the next one


def test_a_snapshot_is_left_at_each_border() -> None:
    kv = make_snapshots()
    slot = start(kv, PREFIX, 5, 12)
    assert kv.until_border(slot) == 5
    kv.take(slot, PREFIX[:5])
    assert kv.operations() == (Copy(slot, 3, 5),)
    assert kv.until_border(slot) == 7
    kv.take(slot, PREFIX[5:12])
    assert kv.operations() == (Copy(slot, 4, 12),)
    assert kv.until_border(slot) is None
    assert [known(kv, PREFIX[:at]) for at in (4, 5, 11, 12, 19)] == [0, 5, 5, 12, 12]
    assert (kv.used, kv.pinned) == (12, 12)
    kv.check()


@pytest.mark.parametrize("border", [0, 20, 27])
def test_a_border_that_is_not_inside_the_prompt_is_none(border: int) -> None:
    kv = make_snapshots()
    assert kv.until_border(start(kv, PREFIX, border)) is None


def test_a_border_in_what_was_taken_over_is_none() -> None:
    kv = make_snapshots()
    rest(kv, PREFIX)
    assert kv.until_border(start(kv, [*PREFIX, 1, 2], 7, 20, 21)) == 1


def test_with_rollback_there_are_no_borders() -> None:
    kv = make()
    assert kv.until_border(start(kv, PREFIX, 5)) is None


def test_who_has_ended_has_no_border_ahead() -> None:
    kv = make_snapshots()
    slot = start(kv, PREFIX, 5)
    end(kv, slot)
    assert kv.until_border(slot) is None


def test_a_snapshot_is_as_new_as_the_moment_when_it_was_left() -> None:
    kv = make_snapshots(resting=2)
    slow = start(kv, PREFIX, 5)
    rest(kv, [1] * 20)
    other = run(kv, [2] * 20)
    compute(kv, slow, PREFIX, upto=5)
    end(kv, other)
    assert (known(kv, PREFIX[:5]), known(kv, [1] * 20), known(kv, [2] * 20)) == (5, 0, 20)


def test_whoever_is_waited_for_leaves_a_snapshot_where_the_prompts_part() -> None:
    kv = make_snapshots()
    slot = start(kv, [*PREFIX, 1])
    hit = kv.look_up([*PREFIX, 2, 3])
    assert hit.gain == 20
    kv.wait_for(hit)
    assert kv.until_border(slot) == 20
    compute(kv, slot, [*PREFIX, 1])
    assert known(kv, PREFIX) == 20


def test_who_stands_where_the_prompts_part_leaves_a_snapshot_at_once() -> None:
    kv = make_snapshots()
    slot = run(kv, PREFIX)
    kv.wait_for(kv.look_up([*PREFIX, 2, 3]))
    kv.check()
    assert kv.operations() == (Copy(slot, 3, 20),)
    assert known(kv, PREFIX) == 20


def test_nobody_can_wait_for_a_snapshot_where_none_can_be_left() -> None:
    kv = make_snapshots(resting=0)
    slot = start(kv, PREFIX, 5)
    assert kv.until_border(slot) is None
    assert kv.look_up([*PREFIX, 2]).gain <= 0


def test_without_rollback_the_same_state_rests_once() -> None:
    kv = make_snapshots()
    first, second = start(kv, PREFIX), start(kv, PREFIX)
    for slot in (first, second):
        compute(kv, slot, PREFIX)
        end(kv, slot)
    assert kv.used == 20


def test_who_ends_on_a_state_that_another_one_goes_on_from_keeps_it() -> None:
    kv = make_snapshots()
    first = run(kv, PREFIX)
    kv.wait_for(kv.look_up([*PREFIX, 1]))
    second = start(kv, [*PREFIX, 1])
    assert kv.release_one()  # the snapshot between them
    end(kv, second)
    compute(kv, first, [*PREFIX, 2])
    kv.check()
    assert known(kv, PREFIX) == 20


def test_who_ends_where_the_last_id_at_rest_goes_on_from_takes_over_that_id() -> None:
    kv = make_snapshots(resting=1)
    first = run(kv, PREFIX)
    kv.wait_for(kv.look_up([*PREFIX, 1]))
    end(kv, run(kv, [*PREFIX, 1, 2]))
    assert known(kv, [*PREFIX, 1, 2]) == 22
    end(kv, first)
    assert (known(kv, PREFIX), kv.used) == (20, 20)


def test_a_snapshot_that_is_used_stays_longer_than_one_that_is_not() -> None:
    kv = make_snapshots(resting=2)
    rest(kv, PREFIX, [1] * 20)
    start(kv, [*PREFIX, 1])
    rest(kv, [2] * 20)
    assert (known(kv, PREFIX), known(kv, [1] * 20)) == (20, 0)


def test_a_snapshot_was_used_until_the_last_one_that_began_with_it_has_ended() -> None:
    kv = make_snapshots(resting=3)
    rest(kv, PREFIX)
    slot = run(kv, [*PREFIX, 1])
    rest(kv, [1] * 20)
    end(kv, slot)
    assert kv.release_one()
    assert (known(kv, PREFIX), known(kv, [1] * 20)) == (20, 0)


def test_without_rollback_whoever_makes_room_goes_whole() -> None:
    kv = make_snapshots(60)
    rest(kv, [1] * 20, [2] * 20)
    assert kv.make_room(21)
    assert kv.operations() == (Trim(3, 0),)
    assert kv.used == 20
    kv.check()
