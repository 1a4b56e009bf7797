"""Reports of steps: what is collected, what goes out at once, and signs of life."""

from __future__ import annotations

from gguf_worker.engine.loop.step_reporter import BEAT_SECONDS, StepReporter
from gguf_worker.engine.messages import Delta, Step
from tests.engine.loop.test_scheduler import make
from tests.fakes import FakeClock


def made(interval: float = 1.0) -> tuple[StepReporter, list[Step], FakeClock]:
    sent: list[Step] = []
    clock = FakeClock()
    reporter = StepReporter(sent.append, make(), None, clock, interval)
    reporter.send()
    sent.clear()
    return reporter, sent, clock


def test_steps_within_the_interval_are_one_report() -> None:
    reporter, sent, clock = made()
    reporter.add_step(4, 0.25)
    reporter.send_if_due()
    assert sent == []
    clock.advance(1.0)
    reporter.add_step(2, 0.5)
    reporter.send_if_due()
    assert [(step.steps, step.rows, step.seconds) for step in sent] == [(2, 6, 0.75)]


def test_a_step_without_rows_counts_only_its_time() -> None:
    reporter, sent, _ = made()
    reporter.add_step(0, 0.5)
    reporter.send()
    assert (sent[0].steps, sent[0].rows, sent[0].seconds) == (0, 0, 0.5)


def test_a_first_text_an_end_and_an_urge_do_not_wait() -> None:
    reporter, sent, _ = made()
    reporter.add_delta(Delta(1, "b", 1))
    reporter.send_if_due()
    assert sent == []
    reporter.add_delta(Delta(2, "a", 1), first=True)
    reporter.send_if_due()
    reporter.add_delta(Delta(1, finish="stop"))
    reporter.send_if_due()
    reporter.urge()
    reporter.send_if_due()
    assert [len(step.deltas) for step in sent] == [2, 1, 0]
    assert not reporter.has_deltas


def test_signs_of_life_are_sent_only_after_a_silence() -> None:
    reporter, sent, clock = made()
    clock.advance(BEAT_SECONDS / 2)
    reporter.beat()
    assert sent == []
    clock.advance(BEAT_SECONDS / 2)
    reporter.send_or_beat()
    reporter.beat()
    assert [(step.rows, step.deltas) for step in sent] == [(0, ())]


def test_a_sign_of_life_leaves_what_was_collected_for_the_report() -> None:
    reporter, sent, clock = made()
    reporter.add_delta(Delta(1, "a", 1))
    clock.advance(BEAT_SECONDS)
    reporter.beat()
    reporter.announce((1,))
    assert [(step.begun, step.deltas) for step in sent] == [((), ()), ((1,), ())]
    assert reporter.has_deltas
