"""The rows of a step: how they are divided between decoding and prompts, and among the prompts."""

from __future__ import annotations

import pytest

from gguf_worker.engine.loop.mixing import WIDE, Alternate, Mixed
from gguf_worker.engine.loop.sequence import Sequence
from tests.engine.loop.test_scheduler import add, make, read, run, tokens_of


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


def test_a_narrow_step_is_not_cut_into_narrow_chunks() -> None:
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
    ("prompt", "count"), [(2 * WIDE - 1, 0), (2 * WIDE, WIDE), (150, 150 - WIDE)]
)
def test_no_prompt_beside_others_is_left_with_a_narrow_chunk(prompt: int, count: int) -> None:
    scheduler = make(budget=10 + 2 * WIDE - 2, context=1000)
    add(scheduler, 1, prompt=10)
    add(scheduler, 2, prompt)
    assert read(run(scheduler)).get(2, 0) == count


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
    scheduler = make(slots=6, budget=20, max_waiting=10, mixing=Alternate(20))
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
        add(scheduler, id, prompt=4, max_tokens=1)
        steps.append(read(run(scheduler)))
    assert steps.index({0: 1}) == Alternate.IN_A_ROW


def test_alternate_reads_no_more_than_a_few_chunks_of_a_burst_before_an_answer_goes_on() -> None:
    scheduler = make(slots=32, budget=1000, max_waiting=40, mixing=Alternate(64))
    add(scheduler, 0, prompt=4)
    run(scheduler)
    for id in range(1, 20):
        add(scheduler, id, prompt=32)
    before = []
    while 0 not in (step := read(run(scheduler))):
        before.append(sum(step.values()))
    assert before == [Alternate.BURST * 64]


def test_alternate_decodes_when_the_prompt_whose_turn_it_is_finds_no_cell() -> None:
    scheduler = make(cells=100, context=90, budget=50, mixing=Alternate(1))
    add(scheduler, 1, prompt=31)
    run(scheduler)
    add(scheduler, 2, prompt=66, max_tokens=1)
    while scheduler.cells.pinned < 99:
        assert len(run(scheduler).chunks) == 1
    assert read(scheduler.plan(0.0)) == {1: 1}
