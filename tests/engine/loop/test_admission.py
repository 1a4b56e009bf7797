"""Requests that may not even wait for a slot."""

from __future__ import annotations

import msgspec
import pytest

from gguf_worker.engine.loop.admission import Admission
from gguf_worker.engine.messages import EngineRequest
from gguf_worker.generation import Grammar, Sampling, TokenRules
from tests.engine.loop.test_scheduler import add, make, run
from tests.fake_backend import FakeBackend, drawl
from tests.fakes import FakeClock

REQUEST = EngineRequest("hi", Sampling())
INFO = FakeBackend(drawl).info


def test_a_request_that_finds_a_slot_is_not_refused() -> None:
    admission = Admission(INFO, make(), FakeClock())
    assert admission.refusal(REQUEST, promised=0) is None


def test_a_model_that_writes_no_text_refuses_all() -> None:
    info = msgspec.structs.replace(INFO, generates=False)
    refusal = Admission(info, make(), FakeClock()).refusal(REQUEST, promised=0)
    assert refusal is not None
    assert (refusal.code, refusal.param) == ("invalid_request", "model")


def test_an_answer_with_a_grammar_has_an_end() -> None:
    request = EngineRequest("hi", Sampling(), ignore_eos=True, grammar=Grammar("regex", "a"))
    refusal = Admission(INFO, make(), FakeClock()).refusal(request, promised=0)
    assert refusal is not None
    assert refusal.param == "ignore_eos"


def test_promised_requests_count_as_queued() -> None:
    admission = Admission(INFO, make(slots=1, max_waiting=1), FakeClock())
    assert admission.refusal(REQUEST, promised=1) is None
    refusal = admission.refusal(REQUEST, promised=2)
    assert refusal is not None
    assert refusal.code == "overloaded"


def test_each_request_that_is_refused_is_told_a_time_of_its_own() -> None:
    clock = FakeClock()
    scheduler = make(slots=2, max_waiting=0)
    for id in (1, 2):
        add(scheduler, id, prompt=5)
    run(scheduler)
    admission = Admission(INFO, scheduler, clock)
    admission.note_held(4.0)
    refusals = [admission.refusal(REQUEST, promised=0) for _ in range(3)]
    times = [refusal.retry_after for refusal in refusals if refusal is not None]
    assert times == pytest.approx([3.0, 6.0, 9.0])


def test_an_idle_engine_has_forgotten_whom_it_refused() -> None:
    scheduler = make(slots=1, max_waiting=0)
    sequence = add(scheduler, 1, prompt=5)
    run(scheduler)
    admission = Admission(INFO, scheduler, FakeClock())
    admission.note_held(2.0)
    assert [admission.refusal(REQUEST, promised=0) for _ in range(5)]
    scheduler.remove(sequence.id)
    assert admission.refusal(REQUEST, promised=0) is None
    refusal = admission.refusal(REQUEST, promised=1)
    assert refusal is not None
    assert refusal.retry_after == pytest.approx(3.0)


def test_tokens_outside_the_vocabulary_cannot_be_the_allowed_ones() -> None:
    for token in (INFO.vocabulary - 1, INFO.vocabulary):
        request = EngineRequest("hi", Sampling(), rules=TokenRules(allowed=(0, token)))
        refusal = Admission(INFO, make(), FakeClock()).refusal(request, promised=0)
        known = token < INFO.vocabulary
        assert (None if refusal is None else refusal.param) == (
            None if known else "allowed_token_ids"
        )


def test_a_request_that_would_be_late_is_refused_with_the_time_to_wait() -> None:
    clock, scheduler = FakeClock(), make(slots=1)
    add(scheduler, 1, prompt=5)
    run(scheduler)
    admission = Admission(INFO, scheduler, clock)
    late = EngineRequest("hi", Sampling(), deadline=clock.time + 8.0)
    assert admission.refusal(late, promised=0) is None, "nothing is known yet"
    admission.note_held(8.0)
    refusal = admission.refusal(late, promised=0)
    assert refusal is not None
    assert (refusal.code, refusal.retry_after) == ("overloaded", 8.0)
    in_time = EngineRequest("hi", Sampling(), deadline=clock.time + 8.5)
    assert admission.refusal(in_time, promised=0) is None
