"""The scheduler: the rows of a step, the requests that are admitted, and those that are
preempted."""

from __future__ import annotations

import pytest

from gguf_worker.engine.cells.partitioned import WORTH_MOVING, PartitionedCells
from gguf_worker.engine.cells.unified import Clear, Copy, Trim, UnifiedCells
from gguf_worker.engine.loop.mixing import Mixing
from gguf_worker.engine.loop.scheduler import (
    HEADROOM,
    LOOKAHEAD,
    WORTH_WAITING,
    Plan,
    Scheduler,
)
from gguf_worker.engine.loop.sequence import NO_SLOT, Sequence


def make(
    *,
    cells: int = 1000,
    slots: int = 4,
    context: int = 100,
    budget: int = 16,
    max_waiting: int = 8,
    rollback: bool = True,
    outputs: int | None = None,
    mixing: Mixing | None = None,
) -> Scheduler:
    return Scheduler(
        UnifiedCells(cells, slots, slots, rollback=rollback),
        slots=slots,
        context=context,
        budget=budget,
        max_waiting=max_waiting,
        outputs=outputs,
        mixing=mixing,
    )


def tokens_of(id: int, count: int) -> list[int]:
    """Tokens that no other id has."""
    return [1000 * id + at for at in range(count)]


def add(scheduler: Scheduler, id: int, prompt: int | list[int], max_tokens: int = 50) -> Sequence:
    """`prompt`: its tokens, or how many tokens of its own it has."""
    tokens = tokens_of(id, prompt) if isinstance(prompt, int) else prompt
    sequence = Sequence.of(id, tokens, max_tokens)
    scheduler.add(sequence)
    return sequence


def read(plan: Plan) -> dict[int, int]:
    """Rows of each request."""
    return {chunk.sequence.id: chunk.rows for chunk in plan.chunks}


def run_until_admitted(scheduler: Scheduler, sequence: Sequence) -> Plan:
    """Steps up to the one that begins with admitting `sequence`."""
    for _ in range(500):
        plan = run(scheduler)
        if sequence.slot != NO_SLOT:
            return plan
    raise AssertionError("never admitted")


def shape(plan: Plan) -> list[tuple[int, int, int, bool]]:
    """(request, start, rows, output) of each chunk."""
    return [(c.sequence.id, c.start, c.rows, c.output) for c in plan.chunks]


def run(scheduler: Scheduler) -> Plan:
    """One step in which every output gets token 7, and a request that a limit ends is removed."""
    plan = scheduler.plan(0.0)
    scheduler.commit(plan)
    for chunk in plan.chunks:
        if chunk.output and scheduler.advance(chunk.sequence, 7):
            scheduler.remove(chunk.sequence.id)
    scheduler.check()
    return plan


def test_a_prompt_within_the_budget_is_one_chunk_with_one_output() -> None:
    scheduler = make()
    add(scheduler, 1, prompt=10)
    assert shape(scheduler.plan(0.0)) == [(1, 0, 10, True)]


def test_a_prompt_beyond_the_budget_is_cut_and_only_its_last_row_is_an_output() -> None:
    scheduler = make(budget=16)
    add(scheduler, 1, prompt=40)
    assert [shape(run(scheduler)) for _ in range(4)] == [
        [(1, 0, 16, False)],
        [(1, 16, 16, False)],
        [(1, 32, 8, True)],
        [(1, 40, 1, True)],
    ]


def test_decode_rows_come_first_and_prompts_share_what_is_left() -> None:
    scheduler = make(budget=16)
    add(scheduler, 1, prompt=3)
    add(scheduler, 2, prompt=3)
    run(scheduler)
    add(scheduler, 3, prompt=10)
    add(scheduler, 4, prompt=4)
    assert shape(scheduler.plan(0.0)) == [
        (1, 3, 1, True),
        (2, 3, 1, True),
        (3, 0, 10, True),
        (4, 0, 4, True),
    ]


def test_a_long_prompt_never_stops_a_running_stream() -> None:
    scheduler = make(budget=8)
    add(scheduler, 1, prompt=2)
    run(scheduler)
    add(scheduler, 2, prompt=60)
    for _ in range(8):
        assert shape(run(scheduler))[0][0] == 1


def test_decode_rows_are_in_the_order_of_their_sequence_ids() -> None:
    scheduler = make()
    for id in (1, 2, 3):
        add(scheduler, id, prompt=2)
    run(scheduler)
    scheduler.remove(1)
    late = add(scheduler, 4, prompt=2)
    run(scheduler)
    assert late.slot == 0
    assert [id for id, *_ in shape(scheduler.plan(0.0))] == [4, 2, 3]


def test_requests_are_admitted_in_the_order_they_came() -> None:
    scheduler = make(slots=2)
    for id in (1, 2, 3, 4):
        add(scheduler, id, prompt=4)
    assert list(run(scheduler).begun) == [1, 2]
    scheduler.remove(2)
    assert list(run(scheduler).begun) == [3]


def test_a_small_request_does_not_overtake_a_large_one_that_does_not_fit_yet() -> None:
    scheduler = make(cells=120, context=100, budget=100)
    add(scheduler, 1, prompt=60)
    run(scheduler)
    add(scheduler, 2, prompt=80)
    add(scheduler, 3, prompt=2, max_tokens=1)
    assert run(scheduler).begun == ()
    scheduler.remove(1)
    assert list(run(scheduler).begun) == [2, 3]


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "admitted"),
    [
        (100 - 41 - HEADROOM, 1000, True),
        (100 - 41 - HEADROOM + 1, 1000, False),
        (100 - 41 - 5, 5, True),
        (100 - 41 - 5 + 1, 5, False),
    ],
)
def test_a_newcomer_needs_cells_for_its_prompt_and_some_of_its_answer(
    prompt: int, max_tokens: int, admitted: bool
) -> None:
    scheduler = make(cells=100, context=100, budget=100)
    # Known tokens of the running one after a step: 39 of prompt and 1 sampled, and 1 more to come.
    add(scheduler, 1, prompt=39)
    run(scheduler)
    add(scheduler, 2, prompt=prompt, max_tokens=max_tokens)
    assert bool(scheduler.plan(0.0).begun) is admitted


def test_a_newcomer_counts_prompts_that_are_admitted_but_not_computed_yet() -> None:
    scheduler = make(cells=100, context=90, budget=8)
    add(scheduler, 1, prompt=60)
    add(scheduler, 2, prompt=30)
    assert list(run(scheduler).begun) == [1]


def test_a_request_alone_is_admitted_even_without_headroom() -> None:
    scheduler = make(cells=100, context=100, budget=100)
    add(scheduler, 1, prompt=99)
    assert shape(scheduler.plan(0.0)) == [(1, 0, 99, True)]


def test_the_youngest_is_preempted_and_computed_again_with_its_answer_so_far() -> None:
    scheduler = make(cells=80, context=80, budget=80)
    old, young = add(scheduler, 1, prompt=20, max_tokens=60), add(scheduler, 2, prompt=20)
    while not (plan := run(scheduler)).preempted:
        pass
    assert plan.preempted == 1
    assert [id for id, *_ in shape(plan)] == [1]
    assert (young.slot, young.computed) == (NO_SLOT, 0)
    assert old.computed == 41
    assert young.tokens == [*tokens_of(2, 20), *[7] * 21]
    plan = run_until_admitted(scheduler, young)
    assert shape(plan) == [(2, 0, 41, True)]


def test_a_preempted_request_keeps_what_is_left_of_its_cells() -> None:
    scheduler = make(cells=1000, context=1000, budget=1000)
    old, young = add(scheduler, 1, 400, max_tokens=150), add(scheduler, 2, 400, max_tokens=900)
    while not run(scheduler).preempted:
        pass
    computed = len(young.tokens) - 1
    assert young.preempted
    plan = run_until_admitted(scheduler, young)
    assert not young.preempted
    assert old.id not in read(plan)
    assert 0 < read(plan)[2] < computed


def test_a_request_is_announced_once_and_not_again_after_it_was_preempted() -> None:
    scheduler = make(cells=80, context=80, budget=80)
    add(scheduler, 1, prompt=20, max_tokens=60)
    add(scheduler, 2, prompt=20)
    begun = [id for _ in range(120) for id in run(scheduler).begun]
    assert begun == [1, 2]
    assert scheduler.idle


def test_a_request_that_comes_back_with_all_its_cells_finds_a_cell_for_its_next_row() -> None:
    scheduler = make(cells=100, context=100, budget=100)
    add(scheduler, 1, prompt=40)
    add(scheduler, 2, prompt=20)
    for _ in range(21):
        run(scheduler)
    assert scheduler.retreat()
    scheduler.remove(1)
    assert (scheduler.cells.pinned, scheduler.cells.free) == (0, 0)  # all at rest
    assert shape(run(scheduler)) == [(2, 40, 1, True)]


def test_the_id_of_a_preempted_request_is_cleared_before_the_next_step() -> None:
    scheduler = make(cells=80, context=80, budget=80)
    add(scheduler, 1, prompt=20, max_tokens=60)
    young = add(scheduler, 2, prompt=20)
    run(scheduler)
    slot = young.slot
    while not (plan := run(scheduler)).preempted:
        assert plan.operations == ()
    assert Trim(slot, 0) in plan.operations


def test_a_preempted_request_goes_before_those_that_wait() -> None:
    scheduler = make(slots=2, cells=80, context=80, budget=80)
    add(scheduler, 1, prompt=20, max_tokens=25)
    second = add(scheduler, 2, prompt=20)
    third = add(scheduler, 3, prompt=20)
    while not run(scheduler).preempted:
        pass
    run_until_admitted(scheduler, second)
    assert third.slot == NO_SLOT


def test_a_request_ends_at_its_own_limit() -> None:
    scheduler = make()
    sequence = add(scheduler, 1, prompt=4, max_tokens=2)
    assert not scheduler.advance(sequence, 7)
    assert scheduler.advance(sequence, 7)


def test_a_request_ends_when_its_context_is_full() -> None:
    scheduler = make(context=10)
    sequence = add(scheduler, 1, prompt=8)
    assert not scheduler.advance(sequence, 7)
    assert scheduler.advance(sequence, 7)


def test_a_prompt_must_leave_space_for_one_token() -> None:
    scheduler = make(context=100)
    assert scheduler.can_fit(99)
    assert not scheduler.can_fit(100)


def test_the_queue_holds_so_many_beyond_the_free_sequences() -> None:
    scheduler = make(slots=2, max_waiting=3)
    for id in range(5):
        assert scheduler.can_queue()
        add(scheduler, id, prompt=4)
    assert not scheduler.can_queue()
    run(scheduler)
    assert (scheduler.running, scheduler.waiting) == (2, 3)
    assert not scheduler.can_queue()
    scheduler.remove(4)
    assert scheduler.can_queue()


def test_a_newcomer_has_to_wait_for_those_that_find_no_free_sequence_before_it() -> None:
    scheduler = make(slots=2)
    queued = []
    for id in range(4):
        queued.append(scheduler.ahead_of(1, "", 0.0))
        add(scheduler, id, prompt=4)
    assert queued == [0, 0, 1, 2]
    run(scheduler)
    assert scheduler.ahead_of(1, "", 0.0) == 3  # itself included
    assert scheduler.ahead_of(2, "", 0.0) == 1


def test_a_request_that_waits_can_be_removed() -> None:
    scheduler = make(slots=1)
    add(scheduler, 1, prompt=4)
    add(scheduler, 2, prompt=4)
    run(scheduler)
    scheduler.remove(2)
    scheduler.check()
    assert scheduler.waiting == 0
    assert scheduler.plan(0.0).operations == ()


@pytest.mark.parametrize("steps", [1, 2, 5], ids=["prefilling", "prefilled", "decoding"])
def test_a_request_removed_in_any_phase_gives_its_cells_and_its_id_back(steps: int) -> None:
    scheduler = make(budget=8)
    sequence = add(scheduler, 1, prompt=12)
    for _ in range(steps):
        run(scheduler)
    held = scheduler.cells.pinned
    assert held == sequence.computed > 0
    scheduler.remove(1)
    scheduler.check()
    assert (scheduler.cells.pinned, scheduler.cells.used) == (
        0,
        held,
    )  # at rest, for whoever needs them
    assert scheduler.cells.evict_for(scheduler.cells.total)
    assert scheduler.cells.free_slots == scheduler.slots
    assert scheduler.idle
    assert Trim(sequence.slot, 0) in scheduler.plan(0.0).operations


def test_a_limit_shrinks_the_prompt_part_of_a_step() -> None:
    scheduler = make(budget=16)
    add(scheduler, 1, prompt=12)
    assert shape(scheduler.plan(0.0, limit=5)) == [(1, 0, 5, False)]


def test_a_plan_that_is_not_committed_changes_no_count() -> None:
    scheduler = make()
    sequence = add(scheduler, 1, prompt=12)
    first = scheduler.plan(0.0)
    assert (scheduler.cells.used, sequence.computed) == (0, 0)
    assert scheduler.plan(0.0).chunks == first.chunks


def test_a_retreat_sends_the_youngest_back_to_the_head_of_the_queue() -> None:
    scheduler = make(slots=2)
    for id in (1, 2, 3):
        add(scheduler, id, prompt=4)
    scheduler.plan(0.0)
    assert scheduler.retreat()
    scheduler.check()
    assert shape(scheduler.plan(0.0)) == [(1, 0, 4, True)]


def test_after_a_retreat_nobody_is_admitted_until_a_running_request_has_ended() -> None:
    # Otherwise the one that made room would take it again at once, and no step would ever succeed.
    scheduler = make()
    add(scheduler, 1, prompt=4)
    add(scheduler, 2, prompt=4)
    scheduler.plan(0.0)
    assert scheduler.retreat()
    add(scheduler, 3, prompt=4)
    assert run(scheduler).begun == (1,)
    for _ in range(3):
        assert run(scheduler).begun == ()
    scheduler.remove(1)
    assert list(run(scheduler).begun) == [2, 3]


def test_a_retreat_evicts_what_is_idle_before_a_request_is_preempted() -> None:
    scheduler = make()
    for id in (1, 2):
        add(scheduler, id, prompt=4, max_tokens=1)
    run(scheduler)
    first, second = add(scheduler, 3, prompt=4), add(scheduler, 4, prompt=4)
    run(scheduler)
    for left in (4, 0):
        assert scheduler.retreat()
        assert scheduler.running == 2
        assert scheduler.cells.used - scheduler.cells.pinned == left
    assert scheduler.retreat()
    assert (first.slot, second.slot) == (0, NO_SLOT)


def test_a_retreat_that_preempts_nobody_keeps_no_newcomer_out() -> None:
    scheduler = make()
    add(scheduler, 1, prompt=4, max_tokens=1)
    run(scheduler)
    add(scheduler, 2, prompt=4)
    run(scheduler)
    assert scheduler.retreat()
    add(scheduler, 3, prompt=4)
    assert run(scheduler).begun == (3,)


def test_one_that_runs_alone_has_nobody_to_send_back() -> None:
    scheduler = make()
    add(scheduler, 1, prompt=4)
    scheduler.plan(0.0)
    assert not scheduler.retreat()


PREFIX = tokens_of(99, 40)


def test_a_prompt_whose_beginning_another_one_is_computing_waits_and_others_pass_it() -> None:
    scheduler = make(budget=16)
    first = add(scheduler, 1, [*PREFIX, 1])
    second = add(scheduler, 2, [*PREFIX, 2])
    third = add(scheduler, 3, prompt=4)
    run(scheduler)
    assert (first.slot, third.slot) == (0, 1)
    assert second.slot == NO_SLOT


def test_a_step_looks_at_so_many_that_wait_for_another_and_no_further() -> None:
    scheduler = make(budget=16, max_waiting=1000)
    for id in range(LOOKAHEAD):
        add(scheduler, id, [*PREFIX, id])
    near = add(scheduler, 1000, prompt=4)
    add(scheduler, 1001, [*PREFIX, -1])
    far = add(scheduler, 1002, prompt=4)
    run(scheduler)
    assert near.slot != NO_SLOT
    assert far.slot == NO_SLOT


@pytest.mark.parametrize("rollback", [True, False], ids=["cells", "snapshots"])
def test_a_request_that_waited_starts_with_the_shared_cells_as_soon_as_they_are_there(
    rollback: bool,
) -> None:
    scheduler = make(budget=16, rollback=rollback)
    first = add(scheduler, 1, [*PREFIX, *tokens_of(1, 30)])
    second = add(scheduler, 2, [*PREFIX, *tokens_of(2, 30)])
    while first.computed < len(PREFIX):
        assert second.slot == NO_SLOT
        run(scheduler)
    scheduler.plan(0.0)
    assert second.computed == second.cached == len(PREFIX)
    assert scheduler.cells.pinned == first.computed


@pytest.mark.parametrize("rollback", [True, False], ids=["cells", "snapshots"])
def test_when_the_one_it_waits_for_is_cancelled_it_computes_the_tokens_itself(
    rollback: bool,
) -> None:
    scheduler = make(budget=16, rollback=rollback)
    add(scheduler, 1, [*PREFIX, 1])
    second = add(scheduler, 2, [*PREFIX, 2])
    run(scheduler)
    scheduler.remove(1)
    assert shape(run(scheduler)) == [(2, 16, 16, False)]  # what was computed is not lost
    run(scheduler)
    assert second.generated == 1


def test_when_the_one_it_waits_for_is_preempted_both_get_on_all_the_same() -> None:
    scheduler = make(budget=16)
    add(scheduler, 1, prompt=4)
    run(scheduler)
    owner = add(scheduler, 2, [*PREFIX, 2])
    waiting = add(scheduler, 3, [*PREFIX, 3])
    run(scheduler)
    assert scheduler.retreat()
    assert owner.slot == NO_SLOT
    scheduler.remove(1)
    run_until_admitted(scheduler, waiting)
    assert owner.computed >= len(PREFIX)
    assert waiting.cached == len(PREFIX)


@pytest.mark.parametrize("shared", [WORTH_WAITING - 1, WORTH_WAITING])
def test_no_request_waits_for_a_few_tokens(shared: int) -> None:
    scheduler = make(budget=16)
    add(scheduler, 1, [*PREFIX[:shared], *tokens_of(1, 30)])
    second = add(scheduler, 2, [*PREFIX[:shared], *tokens_of(2, 30)])
    run(scheduler)
    assert (second.slot == NO_SLOT) is (shared == WORTH_WAITING)


def test_no_request_waits_for_cells_that_cannot_be_taken_over() -> None:
    cells = UnifiedCells(1000, slots=2, idle=0, rollback=False)
    scheduler = Scheduler(cells, slots=2, context=100, budget=16, max_waiting=8)
    add(scheduler, 1, [*PREFIX, 1])
    second = add(scheduler, 2, [*PREFIX, 2])
    run(scheduler)
    assert second.slot != NO_SLOT


@pytest.mark.parametrize("rollback", [True, False], ids=["cells", "snapshots"])
def test_equal_prompts_are_computed_once_and_one_more_row_for_each(rollback: bool) -> None:
    scheduler = make(budget=64, rollback=rollback)
    sequences = [add(scheduler, id, PREFIX, max_tokens=50) for id in range(4)]
    rows = 0
    while not all(each.generated for each in sequences):
        rows += sum(c.rows for c in run(scheduler).chunks if c.start < len(PREFIX))
    assert rows == len(PREFIX) + 3


def test_the_next_turn_of_a_conversation_computes_what_is_new() -> None:
    scheduler = make()
    first = add(scheduler, 1, prompt=10, max_tokens=5)
    while not scheduler.idle:
        run(scheduler)
    add(scheduler, 2, [*first.tokens, 1, 2])
    assert shape(run(scheduler)) == [(2, 14, 3, True)]  # the last token it said was never computed


def test_cached_counts_what_was_there_at_the_first_admission_only() -> None:
    scheduler = make()
    add(scheduler, 1, [*PREFIX, 1])
    add(scheduler, 2, prompt=4)
    for _ in range(4):
        run(scheduler)
    second = add(scheduler, 3, [*PREFIX, 3])
    run(scheduler)
    assert second.cached == len(PREFIX)
    assert scheduler.retreat()
    scheduler.remove(1)
    run_until_admitted(scheduler, second)
    assert second.computed > len(PREFIX)
    assert second.cached == len(PREFIX)


def test_a_prompt_is_read_as_far_as_there_are_cells_beside_those_of_the_answers() -> None:
    scheduler = make(cells=100, context=90, budget=10)
    add(scheduler, 1, prompt=31)
    while not run(scheduler).chunks[0].output:
        pass
    add(scheduler, 2, prompt=66, max_tokens=1)
    steps = [read(run(scheduler)) for _ in range(7)]
    assert steps == [{1: 1, 2: 9}] * 6 + [{1: 1, 2: 8}]
    assert scheduler.cells.free == 0


def test_a_newcomer_counts_the_cells_that_it_shares_with_running_ones_once() -> None:
    scheduler = make(cells=100, budget=100)
    add(scheduler, 1, prompt=60)
    run(scheduler)
    second = add(scheduler, 2, [*tokens_of(1, 60), 1, 2])
    run(scheduler)
    assert (second.slot, second.cached) == (1, 60)


def test_a_newcomer_does_not_need_cells_beyond_its_context() -> None:
    scheduler = make(cells=200, slots=2, context=100, budget=100)
    add(scheduler, 1, prompt=98)
    second = add(scheduler, 2, prompt=99)
    run(scheduler)
    assert second.slot != NO_SLOT


def test_a_request_of_the_higher_priority_is_admitted_first() -> None:
    scheduler = make(slots=1)
    low, high = Sequence.of(1, [1, 2], 5, priority=0), Sequence.of(2, [3, 4], 5, priority=2)
    scheduler.add(low)
    scheduler.add(high)
    run(scheduler)
    assert (low.slot, high.slot) == (NO_SLOT, 0)


def test_one_user_does_not_take_every_sequence() -> None:
    scheduler = make(slots=4)
    for id in range(6):
        scheduler.add(Sequence.of(id, tokens_of(id, 4), 50, user="ann"))
    for id in (6, 7):
        scheduler.add(Sequence.of(id, tokens_of(id, 4), 50, user="bob"))
    assert set(read(run(scheduler))) == {0, 1, 6, 7}


def test_a_sequence_that_is_moved_into_a_hole_is_computed_under_its_new_id() -> None:
    cells = PartitionedCells(3 * 100, slots=3)
    scheduler = Scheduler(cells, slots=3, context=100, budget=16, max_waiting=8)
    first, second, third = (add(scheduler, id, prompt=4) for id in (1, 2, 3))
    run(scheduler)
    scheduler.remove(second.id)
    for _ in range(WORTH_MOVING - 1):
        assert [chunk.slot for chunk in run(scheduler).chunks] == [0, 2]
    plan = run(scheduler)
    assert [(c.sequence, c.slot) for c in plan.chunks] == [(first, 0), (third, 1)]
    assert plan.operations == (Trim(1, 0), Copy(2, 1, third.computed - 1), Trim(2, 0))
    assert cells.held(third.slot) == third.computed == 4 + WORTH_MOVING


# Lost numbers


def run_at(scheduler: Scheduler, now: float) -> dict[int, int]:
    """One step at `now` in which every output gets a token; returns the rows of each request."""
    plan = scheduler.plan(now)
    scheduler.commit(plan)
    for chunk in plan.chunks:
        if chunk.output:
            scheduler.advance(chunk.sequence, 7)
    scheduler.check()
    return read(plan)


def test_after_lost_numbers_each_is_computed_alone_with_an_empty_cache_before_all_go_on() -> None:
    scheduler = make()
    for id in (1, 2, 3):
        add(scheduler, id, 3)
    run_at(scheduler, 0.0)
    assert run_at(scheduler, 0.0) == {1: 1, 2: 1, 3: 1}
    assert scheduler.start_again([], 0.0) == 3
    assert scheduler.plan(0.0).operations[0] == Clear()
    assert scheduler.has_trial
    assert [run_at(scheduler, 0.0) for _ in range(4)] == [
        {3: 5},
        {2: 5},
        {1: 5},
        {1: 1, 2: 1, 3: 1},
    ]
    assert not scheduler.has_trial


def test_those_whose_numbers_were_not_lost_need_no_trial() -> None:
    scheduler = make()
    for id in (1, 2, 3):
        add(scheduler, id, 3)
    run_at(scheduler, 0.0)
    scheduler.start_again([1, 3], 0.0)
    assert [run_at(scheduler, 0.0) for _ in range(2)] == [{2: 4}, {1: 4, 2: 1, 3: 4}]


def test_after_one_that_is_removed_without_a_token_the_cache_is_dropped_and_all_go_on() -> None:
    scheduler = make()
    for id in (1, 2, 3):
        add(scheduler, id, 3)
    run_at(scheduler, 0.0)
    scheduler.start_again([], 0.0)
    assert run_at(scheduler, 0.0) == {3: 4}
    assert read(scheduler.plan(0.0)) == {2: 4}
    scheduler.remove(2)
    plan = scheduler.plan(0.0)
    assert (plan.operations, read(plan)) == ((Clear(),), {1: 4, 3: 5})
    assert not scheduler.has_trial


def test_newcomers_leave_the_interrupted_ones_as_much_time_as_it_took_until_they_went_on() -> None:
    scheduler = make()
    add(scheduler, 1, 3)
    add(scheduler, 2, 3)
    run_at(scheduler, 10.0)
    scheduler.start_again([], 10.0)
    add(scheduler, 3, 4)
    assert [run_at(scheduler, 11.0), run_at(scheduler, 12.0)] == [{2: 4}, {1: 4}]
    assert [run_at(scheduler, now) for now in (13.0, 14.0, 17.9)] == [{1: 1, 2: 1}] * 3
    assert run_at(scheduler, 18.0) == {1: 1, 2: 1, 3: 4}


def test_a_flood_that_spoils_the_cache_leaves_half_of_the_time_to_the_others() -> None:
    """Each that spoils makes the others' prompts be read again, which takes many steps here."""
    scheduler = make(budget=4, slots=3, max_waiting=1000)
    good = [add(scheduler, id, 30) for id in (1, 2)]
    bad = {add(scheduler, id, 2).id for id in range(3, 60)}
    lost = 0
    for now in range(400):
        plan = scheduler.plan(float(now))
        scheduler.commit(plan)
        spoils = [chunk.sequence.id for chunk in plan.chunks if chunk.sequence.id in bad]
        outputs = [chunk.sequence for chunk in plan.chunks if chunk.output]
        if not spoils:
            for each in outputs:
                scheduler.advance(each, 7)
        elif scheduler.has_trial:
            scheduler.remove(spoils[0])
        elif outputs:
            scheduler.start_again([], float(now))
            lost += 1
        scheduler.check()
    assert lost > 3
    assert all(each.generated > 100 for each in good)


def test_newcomers_that_come_long_after_the_trials_do_not_wait() -> None:
    scheduler = make()
    add(scheduler, 1, 3)
    run_at(scheduler, 10.0)
    scheduler.start_again([], 10.0)
    assert run_at(scheduler, 11.0) == {1: 4}
    assert [run_at(scheduler, now) for now in (11.5, 12.0, 20.0)] == [{1: 1}] * 3
    add(scheduler, 2, 4)
    assert run_at(scheduler, 21.0) == {1: 1, 2: 4}


def test_newcomers_come_in_at_once_when_the_interrupted_ones_have_ended() -> None:
    scheduler = make()
    add(scheduler, 1, 3)
    run_at(scheduler, 10.0)
    scheduler.start_again([], 10.0)
    add(scheduler, 3, 4)
    add(scheduler, 4, 4)
    assert run_at(scheduler, 20.0) == {1: 4}
    assert run_at(scheduler, 21.0) == {1: 1}
    scheduler.remove(1)
    assert run_at(scheduler, 22.0) == {3: 4, 4: 4}


# Prompts that are scored


def add_scored(scheduler: Scheduler, id: int, prompt: int | list[int]) -> Sequence:
    sequence = add(scheduler, id, prompt)
    sequence.scored = 0
    return sequence


def score(scheduler: Scheduler) -> list[tuple[int, list[int], bool]]:
    """One step; returns of each chunk the request, the positions that it scores, and if it draws.

    Each sequence notes its scores, as the loop does.
    """
    plan = run(scheduler)
    found = []
    for chunk in plan.chunks:
        end = chunk.start + chunk.rows - chunk.output
        found.append((chunk.sequence.id, list(range(end - chunk.scored, end)), chunk.output))
        if chunk.scored:
            assert chunk.sequence.scored is not None
            chunk.sequence.scored += chunk.scored
    return found


def test_every_row_of_a_scored_prompt_is_an_output_and_the_last_one_draws() -> None:
    scheduler = make(outputs=16)
    add_scored(scheduler, 1, prompt=10)
    assert score(scheduler) == [(1, list(range(9)), True)]
    assert score(scheduler) == [(1, [], True)]


def test_a_step_has_no_more_outputs_than_it_may_however_long_scored_prompts_are() -> None:
    scheduler = make(slots=4, outputs=6, budget=32)
    for id in (1, 2, 3):
        add_scored(scheduler, id, prompt=30)
    add(scheduler, 4, prompt=20)
    seen: dict[int, list[int]] = {1: [], 2: [], 3: []}
    drawn: set[int] = set()
    for _ in range(40):
        step = score(scheduler)
        assert sum(len(rows) + draws for _, rows, draws in step) <= 6
        for id, rows, draws in step:
            if rows:
                seen[id] += rows
            drawn |= {id} if draws else set()
    assert seen == {id: list(range(29)) for id in (1, 2, 3)}
    assert drawn == {1, 2, 3, 4}


def test_a_scored_prompt_goes_on_where_no_output_is_to_spare() -> None:
    scheduler = make(slots=2, outputs=2)
    add(scheduler, 1, prompt=2)
    score(scheduler)
    add_scored(scheduler, 2, prompt=4)
    assert [score(scheduler) for _ in range(4)] == [
        [(1, [], True), (2, [at], False)] if at < 3 else [(1, [], True), (2, [], True)]
        for at in range(4)
    ]


@pytest.mark.parametrize("rollback", [True, False])
def test_what_the_cache_holds_is_computed_again_to_be_scored(rollback: bool) -> None:
    scheduler = make(outputs=16, rollback=rollback)
    prompt = tokens_of(7, 12)
    first = add(scheduler, 1, prompt, max_tokens=1)
    run(scheduler)
    assert first.computed == 12
    second = add_scored(scheduler, 2, prompt)
    assert score(scheduler) == [(2, list(range(11)), True)]
    assert second.cached == 0
    third = add(scheduler, 3, [*prompt, 1])
    run(scheduler)
    assert third.cached >= (11 if rollback else 0), "others take over what was scored"


def test_scored_prompts_of_one_beginning_do_not_wait_for_each_other() -> None:
    scheduler = make(outputs=16, budget=64)
    prompt = tokens_of(7, 20)
    for id in (1, 2):
        add_scored(scheduler, id, prompt)
    assert {id for id, _, _ in score(scheduler)} == {1, 2}


def test_a_preempted_prompt_is_scored_from_where_it_was() -> None:
    scheduler = make(outputs=5, budget=8)
    sequence = add_scored(scheduler, 1, prompt=20)
    rows = score(scheduler)[0][1]
    scheduler.start_again((), 0.0)
    assert sequence.computed == 0
    for _ in range(10):
        rows += score(scheduler)[0][1]
    assert rows == list(range(19))
