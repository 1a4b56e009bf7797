"""Log probabilities of one row of logits."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from gguf_worker.engine.drawing.logprobs import LEAST, token_logprob

PIECES = [bytes([value]) for value in range(256)]


def row(seed: int, size: int = 256, scale: float = 8.0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, scale, size).astype(np.float32)


def log_softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    exact = logits.astype(np.float64)
    exact -= exact.max()
    return np.asarray(exact - np.log(np.exp(exact).sum()))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shift", [-1e4, 0.0, 1e4])
def test_they_are_the_log_softmax_of_the_row(seed: int, shift: float) -> None:
    logits = row(seed) + np.float32(shift)
    expected = log_softmax(logits)
    told = token_logprob(logits, 7, 20, PIECES)
    assert told.logprob == pytest.approx(expected[7], abs=1e-5)
    assert [value for _, _, value in told.top[:20]] == pytest.approx(
        sorted(expected, reverse=True)[:20], abs=1e-5
    )
    assert sum(math.exp(value) for _, _, value in told.top) <= 1 + 1e-9


def test_the_top_is_in_order_with_the_bytes_of_each() -> None:
    logits = np.array([0.0, 3.0, 1.0, 3.0], np.float32)
    told = token_logprob(logits, 2, 3, [b"a", b"b", b"c", b"d"])
    assert [(id, piece) for id, piece, _ in told.top] == [(1, b"b"), (3, b"d"), (2, b"c")]
    assert (told.token, told.piece) == (2, b"c")
    assert told.logprob == told.top[2][2]


@pytest.mark.parametrize(("asked", "got"), [(0, 0), (1, 1), (4, 4), (20, 4)])
def test_no_more_are_told_than_are_wanted_and_there(asked: int, got: int) -> None:
    logits = row(1, 4)
    assert len(token_logprob(logits, int(logits.argmax()), asked, PIECES).top) == got


@pytest.mark.parametrize("top", [1, 3, 20])
def test_the_token_itself_is_among_the_likeliest_or_behind_them(top: int) -> None:
    logits = row(5)
    order = np.argsort(-logits)
    for token in map(int, (order[0], order[top - 1], order[top], order[-1])):
        told = token_logprob(logits, token, top, PIECES)
        own = (told.token, told.piece, told.logprob)
        behind = () if token in order[:top] else (own,)
        assert own in told.top
        assert [id for id, _, _ in told.top[:top]] == [int(id) for id in order[:top]]
        assert told.top[top:] == behind


@pytest.mark.parametrize("size", [3, 64, 1000, 5000, 49_152])
@pytest.mark.parametrize("steps", [1, 20, 10_000])
@pytest.mark.parametrize("count", [1, 2, 20])
def test_the_likeliest_are_those_of_a_whole_sort_also_among_equals(
    size: int, steps: int, count: int
) -> None:
    """Of equal ones the smaller id comes first."""
    logits = np.random.default_rng(size).integers(0, steps, size).astype(np.float32)
    order = sorted(range(size), key=lambda id: (-logits[id], id))[:count]
    told = token_logprob(logits, order[0], count, [b""] * size)
    assert [id for id, _, _ in told.top] == order


def test_without_likeliest_ones_there_is_only_the_token_itself() -> None:
    assert token_logprob(row(5), 7, 0, PIECES).top == ()


def test_a_token_without_any_probability_has_a_finite_log_probability() -> None:
    logits = np.array([0.0, -np.inf], np.float32)
    told = token_logprob(logits, 1, 2, PIECES)
    assert told.logprob == told.top[1][2] == LEAST
    assert told.top[0][2] == 0.0


def test_the_row_is_left_as_it_was() -> None:
    logits = row(3)
    before = logits.copy()
    token_logprob(logits, 0, 5, PIECES)
    np.testing.assert_array_equal(logits, before)
