"""The scheduler: which rows a step computes, who is admitted, and who makes room."""

from __future__ import annotations

import random

import pytest

from gguf_worker.engine.kv import KvCache
from gguf_worker.engine.scheduler import HEADROOM, Plan, Scheduler
from gguf_worker.engine.sequence import NO_SLOT, Sequence


def make(
    *, cells: int = 1000, slots: int = 4, context: int = 100, budget: int = 16, max_waiting: int = 8
) -> Scheduler:
    return Scheduler(
        KvCache(cells, slots, slots, rollback=True),
        slots=slots,
        context=context,
        budget=budget,
        max_waiting=max_waiting,
    )


def add(scheduler: Scheduler, id: int, prompt: int, max_tokens: int = 50) -> Sequence:
    sequence = Sequence.of(id, list(range(prompt)), max_tokens)
    scheduler.add(sequence)
    return sequence


def shape(plan: Plan) -> list[tuple[int, int, int, bool]]:
    """(request, start, rows, output) of each chunk."""
    return [(c.sequence.id, c.start, c.count, c.output) for c in plan.chunks]


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
    add(scheduler, 4, prompt=10)
    assert shape(scheduler.plan(0.0)) == [
        (1, 3, 1, True),
        (2, 3, 1, True),
        (3, 0, 10, True),
        (4, 0, 4, False),
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
    assert [id for id, *_ in shape(plan)] == [1]
    assert (young.slot, young.computed) == (NO_SLOT, 0)
    assert old.computed == 41
    assert young.tokens == [*range(20), *[7] * 21]
    while not (plan := run(scheduler)).begun:
        assert [id for id, *_ in shape(plan)] == [1]
    assert shape(plan) == [(2, 0, 41, True)]


def test_the_id_of_a_preempted_request_is_cleared_before_the_next_step() -> None:
    scheduler = make(cells=80, context=80, budget=80)
    add(scheduler, 1, prompt=20, max_tokens=60)
    young = add(scheduler, 2, prompt=20)
    run(scheduler)
    slot = young.slot
    while not (plan := run(scheduler)).preempted:
        assert plan.cleared == ()
    assert plan.cleared == (slot,)


def test_a_preempted_request_goes_before_those_that_wait() -> None:
    scheduler = make(slots=2, cells=80, context=80, budget=80)
    add(scheduler, 1, prompt=20, max_tokens=25)
    add(scheduler, 2, prompt=20)
    add(scheduler, 3, prompt=20)
    while not run(scheduler).preempted:
        pass
    while not (plan := run(scheduler)).begun:
        pass
    assert plan.begun[0] == 2


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


def test_a_request_that_waits_can_be_removed() -> None:
    scheduler = make(slots=1)
    add(scheduler, 1, prompt=4)
    add(scheduler, 2, prompt=4)
    run(scheduler)
    scheduler.remove(2)
    scheduler.check()
    assert scheduler.waiting == 0
    assert scheduler.plan(0.0).cleared == ()


@pytest.mark.parametrize("steps", [1, 2, 5], ids=["prefilling", "prefilled", "decoding"])
def test_a_request_removed_in_any_phase_gives_its_cells_and_its_id_back(steps: int) -> None:
    scheduler = make(budget=8)
    sequence = add(scheduler, 1, prompt=12)
    for _ in range(steps):
        run(scheduler)
    assert scheduler.kv.used > 0
    scheduler.remove(1)
    scheduler.check()
    assert scheduler.kv.used == 0
    assert scheduler.idle
    assert scheduler.plan(0.0).cleared == (sequence.slot,)


def test_a_limit_shrinks_the_prompt_part_of_a_step() -> None:
    scheduler = make(budget=16)
    add(scheduler, 1, prompt=12)
    assert shape(scheduler.plan(limit=5)) == [(1, 0, 5, False)]


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
    scheduler.retreat()
    add(scheduler, 3, prompt=4)
    assert run(scheduler).begun == (1,)
    for _ in range(3):
        assert run(scheduler).begun == ()
    scheduler.remove(1)
    assert list(run(scheduler).begun) == [2, 3]


def test_one_that_runs_alone_has_nobody_to_send_back() -> None:
    scheduler = make()
    add(scheduler, 1, prompt=4)
    scheduler.plan(0.0)
    assert not scheduler.retreat()


class Workload:
    """Random requests, cancels and steps without a KV slot; counts how each request ended."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.scheduler = make(cells=160, slots=6, context=120, budget=24, max_waiting=10)
        self.next_id = 0
        self.alive: dict[int, Sequence] = {}
        self.ended: dict[int, str] = {}
        self.queue: list[int] = []
        self.idle_plans = 0

    def arrive(self) -> None:
        prompt = self.random.choice([1, 2, 5, 30, 70, 119])
        if not self.scheduler.can_queue():
            return
        self.next_id += 1
        most = self.random.choice([1, 3, 40, 10**6])
        self.alive[self.next_id] = add(self.scheduler, self.next_id, prompt, most)
        self.queue.append(self.next_id)

    def cancel(self) -> None:
        if self.alive:
            self.end(self.random.choice(list(self.alive)), "cancelled")

    def end(self, id: int, how: str) -> None:
        assert id not in self.ended
        self.ended[id] = how
        del self.alive[id]
        if id in self.queue:
            self.queue.remove(id)
        self.scheduler.remove(id)

    def step(self, refused: bool) -> int:
        plan = self.scheduler.plan(0.0)
        self.check(plan)
        for id in plan.begun:
            # First come, first begun; a preempted one has been at the head before.
            if id in self.queue:
                assert self.queue.pop(0) == id
        if plan.chunks and refused and self.scheduler.retreat():
            return 0
        self.scheduler.commit(plan)
        for chunk in plan.chunks:
            if chunk.output and self.scheduler.advance(chunk.sequence, 7):
                self.end(chunk.sequence.id, "length")
        return plan.rows

    def check(self, plan: Plan) -> None:
        scheduler = self.scheduler
        assert plan.rows <= scheduler.budget
        assert plan.rows <= scheduler.kv.free
        slots = [chunk.slot for chunk in plan.chunks]
        assert len(set(slots)) == len(slots)
        assert all(0 <= slot < 6 for slot in slots)
        assert all(chunk.start == chunk.sequence.computed for chunk in plan.chunks)
        assert bool(plan.chunks) is not scheduler.idle, "work to do, and nothing done"


@pytest.mark.parametrize("seed", range(4))
def test_a_random_workload_keeps_every_promise(seed: int) -> None:
    work = Workload(seed)
    for _ in range(2500):
        if work.random.random() < 0.2:
            work.arrive()
        if work.random.random() < 0.03:
            work.cancel()
        work.step(refused=work.random.random() < 0.02)
        work.scheduler.check()
    steps = 0
    while not work.scheduler.idle:
        work.step(refused=False)
        work.scheduler.check()
        steps += 1
        assert steps < 5000, "no progress"
    assert set(work.ended) == set(range(1, work.next_id + 1))
    assert set(work.ended.values()) == {"length", "cancelled"}
    assert work.scheduler.kv.used == 0
    assert work.scheduler.kv.free_slots == 6
