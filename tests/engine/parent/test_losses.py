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


def test_losses_by_a_text_bring_the_end_no_nearer() -> None:
    losses = after(4)
    for _ in range(30):
        losses.add(ProcessLost("signal", "a text"), by_text=True)
    assert not losses.too_many(started=True)
    assert losses.pause == after(4).pause
    assert losses.doubtful  # a step may have been the cause
    losses.add(ProcessLost("exit", "nobody's"))
    assert losses.too_many(started=True)


def test_it_is_doubtful_who_killed_a_process_that_had_requests() -> None:
    losses = after(1)
    assert not losses.doubtful
    losses.add(ProcessLost("signal", "computing"), with_requests=True)
    losses.add(ProcessLost("signal", "idle"))
    assert losses.doubtful
    losses.acquit()
    assert not losses.doubtful
    assert losses.pause == after(0).pause


def test_a_machine_on_which_nothing_is_computed_is_given_up_at_the_fifth_loss() -> None:
    losses = after(0)
    losses.add(ProcessLost("signal", "with requests"), with_requests=True)
    for _ in range(4):  # of trial requests
        assert not losses.too_many(started=True)
        losses.add(ProcessLost("signal", "with none"))
    assert losses.too_many(started=True)


def test_deadly_requests_are_survived_if_others_are_answered_between_them() -> None:
    losses = after(0)
    for number in range(100):
        losses.add(ProcessLost("signal", "a request"), with_requests=True)
        losses.acquit()
        assert not losses.too_many(started=True)
        if number % 19 == 0:
            losses.reset()


def test_a_machine_on_which_no_request_is_ever_answered_is_given_up_in_the_end() -> None:
    losses = after(0)
    for _ in range(20):
        assert not losses.too_many(started=True)
        losses.add(ProcessLost("signal", "a request"), with_requests=True)
        losses.acquit()
    assert losses.too_many(started=True)
    assert losses.reason == "a request, 20 times in a row"


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
