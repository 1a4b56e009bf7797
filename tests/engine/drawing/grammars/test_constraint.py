"""The time that the masks of one answer may take."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from gguf_worker.engine.drawing.grammars.constraint import (
    MASK_SECONDS,
    SPARE_SECONDS,
    Constraint,
    GrammarTooCostly,
)
from tests.fakes import FakeClock


class SlowMatcher:
    """Allows every token; a mask takes `mask` seconds, a step `step`."""

    def __init__(self, clock: FakeClock, mask: float, step: float = 0.0) -> None:
        self._clock, self.mask, self.step = clock, mask, step

    def is_error(self) -> bool:
        return False

    def unsafe_compute_mask_ptr(self, address: int, size: int) -> None:
        self._clock.advance(self.mask)
        ctypes.memset(address, 0xFF, size)

    def consume_token(self, token: int) -> bool:
        self._clock.advance(self.step)
        return True


def answer(tokens: int, mask: float, step: float = 0.0, first: float = 0.0) -> None:
    """Draw the tokens of an answer whose masks take so many seconds each."""
    clock = FakeClock()
    matcher: Any = SlowMatcher(clock, first, step)
    constraint = Constraint(matcher, 8, 8, clock)
    for _ in range(tokens):
        constraint.forbidden()
        matcher.mask = mask
        constraint.accept(1)


def test_masks_within_their_time_never_run_out_of_it() -> None:
    answer(10_000, mask=0.6 * MASK_SECONDS, step=0.3 * MASK_SECONDS)


def test_the_first_mask_which_is_computed_beside_the_loop_costs_nothing() -> None:
    answer(100, mask=MASK_SECONDS / 2, first=10.0)


@pytest.mark.parametrize(("mask", "step"), [(0.1, 0.0), (0.0, 0.1)])
def test_an_answer_whose_tokens_are_slow_is_given_up(mask: float, step: float) -> None:
    enough = int(SPARE_SECONDS / (0.1 - MASK_SECONDS)) - 1
    answer(enough, mask, step)
    with pytest.raises(GrammarTooCostly, match="too long"):
        answer(enough + 5, mask, step)


def test_what_was_slow_at_first_is_made_up_for_by_fast_masks() -> None:
    clock = FakeClock()
    matcher: Any = SlowMatcher(clock, 0.0)
    constraint = Constraint(matcher, 8, 8, clock)
    for _ in range(5):
        for mask in [0.9 * SPARE_SECONDS] + [0.0] * int(SPARE_SECONDS / MASK_SECONDS):
            constraint.forbidden()
            matcher.mask = mask
            constraint.accept(1)


def test_an_answer_that_was_given_up_stays_so() -> None:
    clock = FakeClock()
    matcher: Any = SlowMatcher(clock, 0.0)
    constraint = Constraint(matcher, 8, 8, clock)
    constraint.forbidden()
    constraint.accept(1)
    matcher.mask = 2 * SPARE_SECONDS
    for _ in range(2):
        with pytest.raises(GrammarTooCostly):
            constraint.forbidden()
