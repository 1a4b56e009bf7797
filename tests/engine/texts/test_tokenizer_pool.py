"""Threads that read texts: whose turn is next, what is announced, and how work ends."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from gguf_worker.engine.texts.tokenizer_pool import LONG, TokenizerPool, finished
from tests.fake_backend import FakeTokenizers
from tests.waiting import until

PATIENCE = 30.0


class Bench:
    """A pool that is turned by hand, and the turns that work has had."""

    def __init__(self) -> None:
        self.announced: list[tuple[int, ...]] = []
        self.pool = FakeTokenizers(self.announced.append, held=True)
        self.turns: list[int] = []

    def work(self, id: int, turns: int) -> Generator[None, None, str]:
        for _ in range(turns):
            self.turns.append(id)
            yield
        return f"of {id}"

    def begin(self, id: int, turns: int = 1, characters: int = 0) -> Future[str]:
        return self.pool.begin(id, self.work(id, turns), characters=characters)

    def turn(self, times: int) -> None:
        for _ in range(times):
            self.pool.turn()


def test_work_that_has_had_the_fewest_turns_is_next() -> None:
    it = Bench()
    it.begin(1, turns=6)
    it.turn(3)
    it.begin(2, turns=2)
    it.begin(3, turns=1)
    it.turn(8)
    assert it.turns == [1, 1, 1, 2, 3, 2, 1, 1, 1]


def test_the_result_is_there_after_the_last_turn() -> None:
    it = Bench()
    future = it.begin(1, turns=2)
    it.turn(2)
    assert not future.done()
    it.turn(1)
    assert future.result() == "of 1"


def test_what_goes_wrong_goes_wrong_for_who_waits() -> None:
    def work() -> Generator[None, None, None]:
        yield
        raise ZeroDivisionError

    it = Bench()
    future = it.pool.begin(1, work(), characters=0)
    it.turn(2)
    with pytest.raises(ZeroDivisionError):
        future.result()


def test_exactly_those_are_announced_whose_texts_are_being_read() -> None:
    it = Bench()
    future = it.begin(1)
    it.begin(2)
    it.pool.join(future, 3)
    it.turn(1)
    with it.pool.reading(9):
        it.turn(1)
    assert it.announced == [(1, 3), (), (9,), (2, 9), (9,), ()]


def test_who_joins_or_leaves_a_text_that_is_being_read_is_announced() -> None:
    it = Bench()

    def work() -> Generator[None, None, None]:
        it.pool.join(future, 2)
        it.pool.leave(future, 1)
        yield

    future = it.pool.begin(1, work(), characters=0)
    it.turn(1)
    assert it.announced == [(1,), (1, 2), (2,), ()]


def test_work_that_nobody_waits_for_has_no_further_turn() -> None:
    it = Bench()
    future = it.begin(1, turns=9)
    it.pool.join(future, 2)
    it.turn(1)
    it.pool.leave(future, 1)
    assert not future.cancelled()
    it.pool.leave(future, 2)
    assert future.cancelled()
    it.begin(3)
    it.turn(2)
    assert it.turns == [1, 3]


def test_work_that_is_left_in_its_turn_ends_with_it() -> None:
    it = Bench()

    def work() -> Generator[None, None, str]:
        it.pool.leave(future, 1)
        yield
        raise AssertionError

    def last() -> Generator[None, None, str]:
        it.pool.leave(other, 2)
        return "too late"
        yield

    future = it.pool.begin(1, work(), characters=0)
    it.turn(1)
    other = it.pool.begin(2, last(), characters=0)
    it.turn(1)
    assert future.cancelled()
    assert other.cancelled()
    with pytest.raises(AssertionError):
        it.turn(1)


def test_work_can_be_done_at_once() -> None:
    assert finished(Bench().work(1, 3)) == "of 1"


# With threads.


@pytest.fixture
def pool() -> Iterator[TokenizerPool]:
    made = TokenizerPool(lambda _: None)
    yield made
    made.close()
    until(lambda: not any(each.name == "tokenizer" for each in threading.enumerate()))


def test_long_texts_leave_a_thread_to_others(pool: TokenizerPool) -> None:
    gate = threading.Event()
    begun: list[int] = []

    def blocked(id: int) -> Generator[None, None, None]:
        begun.append(id)
        assert gate.wait(PATIENCE)
        yield

    long = [pool.begin(id, blocked(id), characters=LONG) for id in (1, 2, 3)]
    until(lambda: begun == [1])
    short = pool.begin(4, Bench().work(4, 3), characters=LONG - 1)
    assert short.result(PATIENCE) == "of 4"
    assert begun == [1]
    gate.set()
    for future in long:
        future.result(PATIENCE)


def test_two_short_texts_are_read_side_by_side(pool: TokenizerPool) -> None:
    both = threading.Barrier(2, timeout=PATIENCE)

    def meet() -> Generator[None, None, str]:
        both.wait()
        yield
        return "met"

    futures = [pool.begin(id, meet(), characters=0) for id in (1, 2)]
    assert [future.result(PATIENCE) for future in futures] == ["met", "met"]


def test_threads_are_started_when_they_are_needed_and_end() -> None:
    def count() -> int:
        return sum(each.name == "tokenizer" for each in threading.enumerate())

    before = count()
    made = TokenizerPool(lambda _: None)
    assert count() == before
    futures: list[Future[Any]] = [
        made.begin(id, Bench().work(id, 2), characters=0) for id in range(20)
    ]
    assert [future.result(PATIENCE) for future in futures] == [f"of {id}" for id in range(20)]
    assert count() == before + 2
    made.close()
    until(lambda: count() == before)
