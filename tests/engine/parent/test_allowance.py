"""How much may be open in the parent."""

from __future__ import annotations

import pytest

from gguf_worker.engine.parent.allowance import FREE_BYTES, MOST_BYTES, Allowance
from gguf_worker.errors import Overloaded


def test_as_many_requests_wait_as_the_engine_takes() -> None:
    allowance = Allowance(5)
    allowance.check_waiting(4, retry_after=7.0)
    with pytest.raises(Overloaded) as caught:
        allowance.check_waiting(5, retry_after=7.0)
    assert caught.value.retry_after == 7.0


def test_all_messages_together_are_bounded_and_a_later_one_has_place() -> None:
    allowance = Allowance(5)
    half = MOST_BYTES // 2
    allowance.check_bytes(half, half)
    with pytest.raises(Overloaded) as caught:
        allowance.check_bytes(half + 1, half)
    assert caught.value.retry_after is not None


def test_a_message_that_is_alone_is_never_too_large() -> None:
    Allowance(5).check_bytes(10 * MOST_BYTES, 0)


def test_large_messages_keep_no_small_one_out() -> None:
    Allowance(5).check_bytes(FREE_BYTES, 10 * MOST_BYTES)
