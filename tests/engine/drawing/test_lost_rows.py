"""Rows of logits that say nothing."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from gguf_worker.engine.drawing.lost_rows import lost_rows


def rows(count: int, vocabulary: int = 1000) -> npt.NDArray[np.float32]:
    random = np.random.default_rng(1)
    return random.normal(0, 4, (count, vocabulary)).astype(np.float32)


def test_rows_in_order_are_not_lost() -> None:
    assert lost_rows(rows(5)) == frozenset()
    assert lost_rows(rows(5, vocabulary=3)) == frozenset()


@pytest.mark.parametrize("value", [np.nan, 0.0, -3.5])
def test_a_row_of_nan_or_of_one_value_is_lost(value: float) -> None:
    """llama.cpp's kernels for Q6_K make zeros of a vector that is no numbers."""
    logits = rows(4)
    logits[[0, 2]] = value
    assert lost_rows(logits) == {0, 2}


def test_a_row_that_differs_in_one_place_only_is_not_lost() -> None:
    logits = np.zeros((2, 1000), np.float32)
    logits[0, 777] = logits[1, 0] = 1.0
    assert lost_rows(logits) == frozenset()


@pytest.mark.parametrize("where", [slice(0, 1), slice(0, 999), slice(0, 1000, 2)])
def test_an_output_layer_that_lacks_numbers_for_some_tokens_loses_no_row(where: slice) -> None:
    logits = rows(1)
    logits[0, where] = np.nan
    assert lost_rows(logits) == frozenset()
