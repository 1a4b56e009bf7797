from __future__ import annotations

import sys

import pytest

from gguf_worker.chat.time_limit import at_most


def test_what_takes_too_long_is_ended_and_the_trace_is_as_before() -> None:
    before = sys.gettrace()
    with pytest.raises(TimeoutError), at_most(0.05):
        _for_ever()
    assert sys.gettrace() is before


def _for_ever() -> None:
    while True:
        pass


def test_what_ends_in_time_is_let_be() -> None:
    with at_most(5):
        assert sum(range(1000)) == 499500
