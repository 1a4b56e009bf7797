"""Losses of the process in a row: the pauses after them, and when to give up."""

from __future__ import annotations

import pytest

from gguf_worker.engine.parent.losses import Losses
from gguf_worker.engine.parent.process import ProcessLost


def after(count: int, *, tries: int = 1) -> Losses:
    losses = Losses((0.0, 1.0, 4.0), tries)
    for number in range(count):
        losses.add(ProcessLost("exit", f"loss {number + 1}"))
    return losses


@pytest.mark.parametrize(("count", "pause"), [(0, 0.0), (1, 1.0), (2, 4.0), (3, 4.0)])
def test_the_pause_grows_with_the_losses_up_to_the_last_one(count: int, pause: float) -> None:
    assert after(count).pause == pause


def test_the_first_start_has_its_tries_and_later_ones_five() -> None:
    assert not after(1, tries=2).too_many(started=False)
    assert after(2, tries=2).too_many(started=False)
    assert not after(4).too_many(started=True)
    assert after(5).too_many(started=True)


def test_losses_that_are_somebodys_fault_bring_the_end_no_nearer() -> None:
    losses = after(4)
    for _ in range(9):
        losses.add(ProcessLost("signal", "a text"), blamed=True)
    assert not losses.too_many(started=True)
    assert losses.pause == after(4).pause
    losses.add(ProcessLost("exit", "nobody's"))
    assert losses.too_many(started=True)


def test_a_finished_answer_begins_the_count_anew() -> None:
    losses = after(4)
    losses.reset()
    losses.add(ProcessLost("signal", "killed"))
    assert not losses.too_many(started=True)
    assert losses.reason == "killed"


def test_the_reason_is_the_last_loss_and_how_many_there_were() -> None:
    assert after(0).reason == ""
    assert after(1).reason == "loss 1"
    assert after(3).reason == "loss 3, 3 times in a row"


def test_a_process_that_lacked_memory_is_known_as_such() -> None:
    losses = after(1)
    losses.add(ProcessLost("refused", "cannot read"))
    assert not losses.lacking
    losses.add(ProcessLost("lacking", "out of memory"))
    assert losses.lacking
