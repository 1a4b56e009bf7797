"""One request's tokens, and where it stands."""

from __future__ import annotations

import pytest

from gguf_worker.engine.loop.sequence import NO_SLOT, Sequence


def test_a_new_request_has_its_whole_prompt_pending_and_holds_nothing() -> None:
    sequence = Sequence.of(1, [5, 6, 7], max_tokens=10)
    assert (sequence.pending, sequence.generated, sequence.slot) == (3, 0, NO_SLOT)
    assert not sequence.decoding


def test_the_prompt_is_copied() -> None:
    prompt = [5, 6]
    sequence = Sequence.of(1, prompt, max_tokens=10)
    sequence.tokens.append(7)
    assert prompt == [5, 6]


def test_a_request_decodes_when_only_its_last_sampled_token_is_pending() -> None:
    sequence = Sequence.of(1, [5, 6, 7], max_tokens=10)
    sequence.computed = 3
    sequence.tokens.append(8)
    assert (sequence.pending, sequence.generated) == (1, 1)
    assert sequence.decoding


def test_the_last_token_of_a_prompt_is_not_decoding() -> None:
    sequence = Sequence.of(1, [5, 6, 7], max_tokens=10)
    sequence.computed = 2
    assert not sequence.decoding


def test_two_requests_are_never_equal() -> None:
    assert Sequence.of(1, [5], 1) != Sequence.of(1, [5], 1)


def test_a_request_has_a_prompt() -> None:
    with pytest.raises(AssertionError):
        Sequence.of(1, [], max_tokens=10)


def test_a_sequence_that_begins_again_decodes_when_all_but_its_last_token_is_shared() -> None:
    sequence = Sequence.of(1, [5, 6, 7], max_tokens=10)
    sequence.tokens += [8, 9]
    sequence.computed = 3
    assert not sequence.decoding
    sequence.computed = 4
    assert sequence.decoding


def test_a_new_request_is_of_normal_priority_nobodys_and_neither_begun_nor_preempted() -> None:
    sequence = Sequence.of(1, [5], max_tokens=10)
    assert (sequence.priority, sequence.user, sequence.arrived) == (1, "", 0.0)
    assert (sequence.begun, sequence.preempted, sequence.cached) == (False, False, 0)
    assert sequence.reuse_points == ()


def test_the_priority_the_user_and_the_time_of_a_request_are_kept() -> None:
    sequence = Sequence.of(
        1, [5], max_tokens=10, priority=2, user="ann", arrived=3.0, reuse_points=(1, 4)
    )
    assert (sequence.priority, sequence.user, sequence.arrived) == (2, "ann", 3.0)
    assert sequence.reuse_points == (1, 4)
