"""The tokens of one step are drawn here or by several threads, with the same result."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import numpy.typing as npt
import pytest

from gguf_worker.engine.drawing.sampler_pool import WORTH_SHARING, Banned, DrawRow, SamplerPool

NONE = np.array([], np.int32)
HUGE = WORTH_SHARING
"""Passes over the vocabulary that make any two rows worth sharing."""


class FakeSampler:
    """Draws the best token; knows which thread asked it."""

    ready = True

    def __init__(self, passes: int = HUGE) -> None:
        self.passes = passes
        self.asked: list[tuple[int, str]] = []

    def sample(self, row: int, logits: npt.NDArray[np.float32], banned: Banned) -> int:
        self.asked.append((row, threading.current_thread().name))
        values = logits.copy()
        values[banned] = -np.inf
        return int(values.argmax())

    def close(self) -> None: ...


def rows_of(count: int, passes: int = HUGE) -> list[DrawRow]:
    values = np.random.default_rng(count).random((count, 40), np.float32)
    return [
        DrawRow(
            FakeSampler(passes), 3 * at, logits, NONE if at % 2 else np.array([at % 40], np.int32)
        )
        for at, logits in enumerate(values)
    ]


def threads_of(rows: list[DrawRow]) -> set[str]:
    """Names of the threads that drew."""
    asked = (each.sampler.asked for each in rows if isinstance(each.sampler, FakeSampler))
    return {name for calls in asked for _, name in calls}


@pytest.fixture(params=[1, 2, 3, 8], ids=lambda threads: f"{threads} threads")
def pool(request: pytest.FixtureRequest) -> Iterator[SamplerPool]:
    with closing(SamplerPool(request.param)) as pool:
        yield pool


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 16])
def test_the_tokens_are_the_same_and_in_order_on_any_number_of_threads(
    pool: SamplerPool, count: int
) -> None:
    rows = rows_of(count)
    expected = [each.sampler.sample(0, each.logits, each.banned) for each in rows]
    assert pool.draw(rows) == expected


def test_each_row_is_drawn_once_with_its_own_row_number(pool: SamplerPool) -> None:
    rows = rows_of(7)
    pool.draw(rows)
    for each in rows:
        assert isinstance(each.sampler, FakeSampler)
        assert [row for row, _ in each.sampler.asked] == [each.row]


def test_costly_rows_are_shared_among_threads() -> None:
    with closing(SamplerPool(2)) as pool:
        rows = rows_of(8)
        pool.draw(rows)
        assert threading.current_thread().name in threads_of(rows)
        assert len(threads_of(rows)) == 2


@pytest.mark.parametrize(
    ("threads", "count", "passes"),
    [(1, 8, HUGE), (8, 1, HUGE), (8, 8, 0), (8, 8, (HUGE - 1) // (8 * 40))],
    ids=["one thread", "one row", "greedy", "little work"],
)
def test_no_thread_is_made_where_it_does_not_pay(threads: int, count: int, passes: int) -> None:
    before = set(threading.enumerate())
    with closing(SamplerPool(threads)) as pool:
        rows = rows_of(count, passes)
        pool.draw(rows)
        assert threads_of(rows) == {threading.current_thread().name}
        assert set(threading.enumerate()) == before


def test_closing_ends_the_threads() -> None:
    before = set(threading.enumerate())
    pool = SamplerPool(4)
    pool.draw(rows_of(8))
    pool.close()
    assert set(threading.enumerate()) == before


def test_what_a_sampler_raises_comes_out_wherever_it_was_drawn() -> None:
    class Broken(FakeSampler):
        def sample(self, row: int, logits: object, banned: object) -> int:
            raise RuntimeError(f"row {row}")

    rows = rows_of(4)
    rows[-1] = rows[-1]._replace(sampler=Broken())
    with closing(SamplerPool(2)) as pool, pytest.raises(RuntimeError, match="row 9"):
        pool.draw(rows)
