"""The scheduler: which rows a step computes, who is admitted, and who makes room."""

from __future__ import annotations

import pytest

from gguf_worker.engine.cells.partitioned import PATIENCE, PartitionedCells
from gguf_worker.engine.cells.unified import Copy, Trim, UnifiedCells
from gguf_worker.engine.loop.scheduler import (
    HEADROOM,
    LOOKAHEAD,
    WIDE,
    WORTH_WAITING,
    Alternate,
    Mixed,
    Mixing,
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
    mixing: Mixing | None = None,
) -> Scheduler:
    return Scheduler(
        UnifiedCells(cells, slots, slots, rollback=rollback),
        slots=slots,
        context=context,
        budget=budget,
        max_waiting=max_waiting,
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


def test_a_small_request_does_not_overtake_a_large_one_that_has_no_room_yet() -> None:
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
def test_a_newcomer_needs_room_for_its_prompt_and_some_of_its_answer(
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


def test_the_youngest_makes_room_and_is_computed_again_with_what_it_had_said() -> None:
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


def test_who_makes_room_keeps_what_is_left_of_its_cells() -> None:
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


def test_a_request_is_announced_once_and_not_again_after_it_made_room() -> None:
    scheduler = make(cells=80, context=80, budget=80)
    add(scheduler, 1, prompt=20, max_tokens=60)
    add(scheduler, 2, prompt=20)
    begun = [id for _ in range(120) for id in run(scheduler).begun]
    assert begun == [1, 2]
    assert scheduler.idle


def test_who_comes_back_with_all_its_cells_finds_a_cell_for_its_next_row() -> None:
    scheduler = make(cells=100, context=100, budget=100)
    add(scheduler, 1, prompt=40)
    add(scheduler, 2, prompt=20)
    for _ in range(21):
        run(scheduler)
    assert scheduler.retreat()
    scheduler.remove(1)
    assert (scheduler.kv.pinned, scheduler.kv.free) == (0, 0)  # all at rest
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


def test_a_prompt_must_leave_room_for_one_token() -> None:
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
    held = scheduler.kv.pinned
    assert held == sequence.computed > 0
    scheduler.remove(1)
    scheduler.check()
    assert (scheduler.kv.pinned, scheduler.kv.used) == (0, held)  # at rest, for whoever needs them
    assert scheduler.kv.make_room(scheduler.kv.total)
    assert scheduler.kv.free_slots == scheduler.slots
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
    assert (scheduler.kv.used, sequence.computed) == (0, 0)
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


def test_a_retreat_lets_go_of_who_rests_before_anybody_has_to_make_room() -> None:
    scheduler = make()
    for id in (1, 2):
        add(scheduler, id, prompt=4, max_tokens=1)
    run(scheduler)
    first, second = add(scheduler, 3, prompt=4), add(scheduler, 4, prompt=4)
    run(scheduler)
    for left in (4, 0):
        assert scheduler.retreat()
        assert scheduler.running == 2
        assert scheduler.kv.used - scheduler.kv.pinned == left
    assert scheduler.retreat()
    assert (first.slot, second.slot) == (0, NO_SLOT)


def test_a_retreat_that_costs_nobody_its_place_keeps_no_newcomer_out() -> None:
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
def test_who_waited_starts_with_the_cells_shared_as_soon_as_they_are_there(rollback: bool) -> None:
    scheduler = make(budget=16, rollback=rollback)
    first = add(scheduler, 1, [*PREFIX, *tokens_of(1, 30)])
    second = add(scheduler, 2, [*PREFIX, *tokens_of(2, 30)])
    while first.computed < len(PREFIX):
        assert second.slot == NO_SLOT
        run(scheduler)
    scheduler.plan(0.0)
    assert second.computed == second.cached == len(PREFIX)
    assert scheduler.kv.pinned == first.computed


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


def test_when_the_one_it_waits_for_makes_room_both_get_on_all_the_same() -> None:
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
def test_nobody_waits_for_a_few_tokens(shared: int) -> None:
    scheduler = make(budget=16)
    add(scheduler, 1, [*PREFIX[:shared], *tokens_of(1, 30)])
    second = add(scheduler, 2, [*PREFIX[:shared], *tokens_of(2, 30)])
    run(scheduler)
    assert (second.slot == NO_SLOT) is (shared == WORTH_WAITING)


def test_nobody_waits_for_cells_that_cannot_be_taken_over() -> None:
    kv = UnifiedCells(1000, slots=2, resting=0, rollback=False)
    scheduler = Scheduler(kv, slots=2, context=100, budget=16, max_waiting=8)
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


def test_a_chunk_bounds_the_rows_of_a_step_while_others_decode() -> None:
    scheduler = make(budget=50, mixing=Mixed(10))
    add(scheduler, 1, prompt=30, max_tokens=3)
    assert read(run(scheduler)) == {1: 30}
    add(scheduler, 2, prompt=90)
    assert [read(run(scheduler)) for _ in range(3)] == [{1: 1, 2: 9}, {1: 1, 2: 9}, {2: 50}]


@pytest.mark.parametrize(("chunk", "left"), [(4, 1), (8, 5), (1, 1)])
def test_prompts_get_on_however_many_decode(chunk: int, left: int) -> None:
    scheduler = make(mixing=Mixed(chunk))
    for id in (1, 2, 3):
        add(scheduler, id, prompt=2)
    run(scheduler)
    add(scheduler, 4, prompt=50)
    assert read(run(scheduler)) == {1: 1, 2: 1, 3: 1, 4: left}


def test_a_quarter_of_the_chunk_is_left_for_prompts() -> None:
    scheduler = make(slots=8, budget=24, mixing=Mixed(8))
    for id in range(1, 8):
        add(scheduler, id, prompt=2)
    run(scheduler)
    add(scheduler, 8, prompt=50)
    assert read(run(scheduler))[8] == 2


def test_prompts_and_answers_together_never_exceed_what_a_step_holds() -> None:
    scheduler = make(slots=4, budget=5, mixing=Mixed(40))
    for id in (1, 2, 3):
        add(scheduler, id, prompt=1)
    run(scheduler)
    add(scheduler, 4, prompt=50)
    assert read(run(scheduler)) == {1: 1, 2: 1, 3: 1, 4: 2}


def test_short_prompts_are_read_whole_beside_the_oldest_which_gets_the_rest() -> None:
    scheduler = make(budget=200, context=1000)
    add(scheduler, 1, prompt=300)
    add(scheduler, 2, prompt=40)
    add(scheduler, 3, prompt=70)
    add(scheduler, 4, prompt=30)
    assert read(run(scheduler)) == {1: 130, 2: 40, 4: 30}


def test_a_prompt_that_just_fits_beside_half_of_the_rows_is_read_whole() -> None:
    scheduler = make(budget=200, context=1000)
    add(scheduler, 1, prompt=300)
    add(scheduler, 2, prompt=100)
    assert read(run(scheduler)) == {1: 100, 2: 100}


def test_a_step_may_be_half_as_large_again_to_read_one_more_short_prompt_whole() -> None:
    scheduler = make(slots=8, budget=600, context=1000, mixing=Alternate(192))
    for id in range(1, 6):
        add(scheduler, id, prompt=4)
    run(scheduler)
    run(scheduler)
    for id in (11, 12, 13):
        add(scheduler, id, prompt=75)
    assert read(run(scheduler)) == {11: 75, 12: 75, 13: 75}


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        ((75, 75, 96), {31: 75, 32: 75, 33: 96}),
        ((75, 75, 97), {31: 75, 32: 75}),  # not a short one: half of the chunk at most
        ((96, 96, 96), {31: 96, 32: 96}),  # full as it is
        ((75, 75, 80, 90), {31: 75, 32: 75, 33: 80}),  # one more, and not two
    ],
)
def test_a_step_is_stretched_for_one_short_prompt_and_only_if_it_is_not_full(
    prompts: tuple[int, ...], expected: dict[int, int]
) -> None:
    scheduler = make(slots=24, budget=600, context=1000, max_waiting=20, mixing=Alternate(192))
    for id in range(1, 19):
        add(scheduler, id, prompt=4)
    run(scheduler)
    run(scheduler)
    for id, prompt in enumerate(prompts, 31):
        add(scheduler, id, prompt)
    assert read(run(scheduler)) == expected


def test_a_step_is_not_larger_for_the_end_of_a_long_prompt() -> None:
    scheduler = make(budget=600, context=1000, mixing=Alternate(192))
    for id in (1, 2, 3):
        add(scheduler, id, prompt=4)
    run(scheduler)
    add(scheduler, 11, prompt=192 + 250)
    steps = [read(run(scheduler)).get(11, 0) for _ in range(6)]
    assert [rows for rows in steps if rows > 1] == [192, 192, 58]


def test_the_oldest_prompt_gets_at_least_half_of_the_rows_for_prompts() -> None:
    scheduler = make(budget=200, context=1000)
    for id, prompt in enumerate([300, 60, 50, 55], 1):
        add(scheduler, id, prompt)
    assert read(run(scheduler))[1] >= 100
    assert read(run(scheduler))[1] >= 100


def test_a_narrow_step_is_not_cut_into_narrow_pieces() -> None:
    scheduler = make(budget=WIDE)
    add(scheduler, 1, prompt=90)
    add(scheduler, 2, prompt=5)
    assert read(run(scheduler)) == {1: WIDE}


@pytest.mark.parametrize("beyond", [WIDE - 1, WIDE])
def test_rows_that_the_oldest_prompt_does_not_need_go_to_the_next_if_they_are_enough(
    beyond: int,
) -> None:
    scheduler = make(budget=10 + beyond, context=1000)
    add(scheduler, 1, prompt=10)
    add(scheduler, 2, prompt=190)
    assert read(run(scheduler)) == ({1: 10, 2: WIDE} if beyond == WIDE else {1: 10})


@pytest.mark.parametrize(
    ("prompt", "piece"), [(2 * WIDE - 1, 0), (2 * WIDE, WIDE), (150, 150 - WIDE)]
)
def test_no_prompt_beside_others_is_left_with_a_narrow_piece(prompt: int, piece: int) -> None:
    scheduler = make(budget=10 + 2 * WIDE - 2, context=1000)
    add(scheduler, 1, prompt=10)
    add(scheduler, 2, prompt)
    assert read(run(scheduler)).get(2, 0) == piece


@pytest.mark.parametrize("budget", [1, 5, 16, WIDE, WIDE + 7, 150])
def test_the_oldest_prompt_gets_on_in_every_step(budget: int) -> None:
    scheduler = make(slots=min(4, budget), budget=budget, context=1000)
    oldest = add(scheduler, 0, prompt=300)
    for id in range(1, 200):
        scheduler.add(Sequence.of(id, tokens_of(id, 1 + id % 40), 1))
        before = oldest.computed
        if oldest.generated:
            return
        run(scheduler)
        assert oldest.computed >= min(300, before + max(1, min(budget, WIDE) // 2))


@pytest.mark.parametrize(("prompts", "rows"), [(1, 96), (2, 196), (3, 296), (4, 396), (5, 396)])
def test_a_step_grows_with_the_short_prompts_that_are_read_for_every_four_answers_that_go_on(
    prompts: int, rows: int
) -> None:
    assert Mixed(100).split(4, [60] * prompts, 1000) == (True, rows)


def test_a_step_does_not_grow_for_long_prompts_nor_for_few_beside_many_answers() -> None:
    assert Mixed(100).split(2, [2000] * 5, 1000) == (True, 98)
    assert Mixed(100).split(16, [60] * 4, 1000) == (True, 84)
    assert Mixed(100).split(16, [60] * 5, 1000) == (True, 184)


def test_alternate_gives_steps_of_prompts_only_and_of_decode_rows_only_in_turn() -> None:
    scheduler = make(budget=50, mixing=Alternate(16))
    add(scheduler, 1, prompt=4)
    run(scheduler)
    run(scheduler)
    add(scheduler, 2, prompt=32)
    assert [read(run(scheduler)) for _ in range(5)] == [
        {2: 16},
        {1: 1},
        {2: 16},
        {1: 1, 2: 1},
        {1: 1, 2: 1},
    ]


def test_alternate_reads_the_short_prompts_of_a_burst_before_the_first_of_them_goes_on() -> None:
    scheduler = make(slots=6, budget=20, max_waiting=10, mixing=Alternate(10))
    for id in range(1, 7):
        add(scheduler, id, prompt=10)
    together = dict.fromkeys(range(1, 7), 1)
    assert [read(run(scheduler)) for _ in range(4)] == [
        {1: 10, 2: 10},
        {3: 10, 4: 10},
        {5: 10, 6: 10},
        together,
    ]


def test_alternate_does_not_let_a_first_token_wait_for_a_long_prompt() -> None:
    scheduler = make(budget=50, mixing=Alternate(16))
    add(scheduler, 1, prompt=4)
    run(scheduler)
    add(scheduler, 2, prompt=40)
    assert [read(run(scheduler)) for _ in range(2)] == [{2: 16}, {1: 1}]


def test_alternate_lets_newcomers_go_first_only_so_often() -> None:
    scheduler = make(slots=4, budget=10, mixing=Alternate(10))
    add(scheduler, 0, prompt=4)
    run(scheduler)
    steps = []
    for id in range(1, 3 + Alternate.IN_A_ROW):
        add(scheduler, id, prompt=10, max_tokens=1)
        steps.append(read(run(scheduler)))
    assert steps.index({0: 1}) == Alternate.IN_A_ROW


def test_alternate_decodes_when_it_is_the_turn_of_a_prompt_that_finds_no_cell() -> None:
    scheduler = make(cells=100, context=90, budget=50, mixing=Alternate(1))
    add(scheduler, 1, prompt=31)
    run(scheduler)
    add(scheduler, 2, prompt=66, max_tokens=1)
    while scheduler.kv.pinned < 99:
        assert len(run(scheduler).chunks) == 1
    assert read(scheduler.plan(0.0)) == {1: 1}


def test_a_prompt_is_read_as_far_as_there_are_cells_beside_those_of_the_answers() -> None:
    scheduler = make(cells=100, context=90, budget=10)
    add(scheduler, 1, prompt=31)
    while not run(scheduler).chunks[0].output:
        pass
    add(scheduler, 2, prompt=66, max_tokens=1)
    steps = [read(run(scheduler)) for _ in range(7)]
    assert steps == [{1: 1, 2: 9}] * 6 + [{1: 1, 2: 8}]
    assert scheduler.kv.free == 0


def test_a_newcomer_counts_the_cells_that_it_shares_with_running_ones_once() -> None:
    scheduler = make(cells=100, budget=100)
    add(scheduler, 1, prompt=60)
    run(scheduler)
    second = add(scheduler, 2, [*tokens_of(1, 60), 1, 2])
    run(scheduler)
    assert (second.slot, second.cached) == (1, 60)


def test_a_newcomer_does_not_need_room_beyond_its_context() -> None:
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
    kv = PartitionedCells(3 * 100, slots=3)
    scheduler = Scheduler(kv, slots=3, context=100, budget=16, max_waiting=8)
    first, second, third = (add(scheduler, id, prompt=4) for id in (1, 2, 3))
    run(scheduler)
    scheduler.remove(second.id)
    for _ in range(PATIENCE - 1):
        assert [chunk.slot for chunk in run(scheduler).chunks] == [0, 2]
    plan = run(scheduler)
    assert [(c.sequence, c.slot) for c in plan.chunks] == [(first, 0), (third, 1)]
    assert plan.operations == (Trim(1, 0), Copy(2, 1, third.computed - 1), Trim(2, 0))
    assert kv.held(third.slot) == third.computed == 4 + PATIENCE
