"""Prompts to tokens, within bounds: at once, or on threads."""

from __future__ import annotations

from typing import Any

import pytest

from gguf_worker.engine.loop.tokenizing import Prompt, PromptTokenizer
from gguf_worker.engine.messages import EngineRequest, Failure, Submit
from gguf_worker.generation import Sampling
from tests.fake_backend import BOS, END, VOCABULARY, FakeTokenizers, FakeVocabulary, tokens_of


class Bench:
    """A tokeniser of prompts of fewer than `context` tokens, and the ids that it has announced."""

    def __init__(self, context: int = 32) -> None:
        self.announced: list[tuple[int, ...]] = []
        self.pool = FakeTokenizers(self.announced.append, held=True)
        self.vocabulary = FakeVocabulary()
        self.prompts = PromptTokenizer(self.vocabulary, context, self.pool)

    def read(self, prompt: str | list[int], **more: Any) -> Prompt | Failure:
        outcome = self.prompts.prompt(submit(prompt, **more), 0.0)
        assert outcome is not None
        return outcome

    def settled(self) -> dict[int, Prompt | Failure]:
        return {submit.id: outcome for submit, _, outcome in self.prompts.settled()}


def submit(prompt: str | list[int], id: int = 7, **more: Any) -> Submit:
    return Submit(id, EngineRequest(prompt, Sampling(), **more))


def failure(outcome: Prompt | Failure) -> Failure:
    assert isinstance(outcome, Failure)
    return outcome


LONG = "x" * 5000


def test_a_short_prompt_is_read_as_its_flags_say_and_announced() -> None:
    it = Bench()
    assert it.read("a<end>") == Prompt([BOS, ord("a"), END])
    plain = it.read("<end>", add_special=False, parse_special=False)
    assert plain == Prompt(tokens_of("<end>"))
    assert it.announced == [(7,), ()] * 2


def test_tokens_are_taken_as_they_are_without_a_word() -> None:
    it = Bench()
    assert it.read([1, 2], reuse_points=(1,)) == Prompt([1, 2])
    assert it.announced == []


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ([], "invalid_request"),
        ([VOCABULARY], "invalid_request"),
        ([-1], "invalid_request"),
        ([1] * 32, "context_length_exceeded"),
        ([1] * 31 + [VOCABULARY], "context_length_exceeded"),  # too many to look at each
        ("x" * 32, "context_length_exceeded"),
        ("x" * 200, "context_length_exceeded"),
    ],
)
def test_a_prompt_that_cannot_be_computed_is_refused(
    prompt: str | list[int], expected: str
) -> None:
    assert failure(Bench().read(prompt)).code == expected


def test_a_text_that_has_too_many_tokens_by_its_length_is_not_read() -> None:
    it = Bench()
    message = failure(it.read("x" * 200)).message
    assert "50 tokens > 31 maximum" in message
    assert "not all were counted" in message
    assert it.vocabulary.tokenized == []


def test_a_text_that_the_vocabulary_refuses_is_a_failure_and_no_longer_announced() -> None:
    it = Bench()
    assert it.read("deep") == Failure("invalid_request", "too deep", param="prompt")
    points = it.read("deeper", reuse_points=(2, 4, 6), add_special=False)
    assert points == Prompt(tokens_of("deeper"), (2,))
    assert it.announced == [(7,), ()] * 2


def test_reuse_points_are_where_the_tokens_of_the_beginning_agree() -> None:
    prompt = Bench().read("system, user", reuse_points=(0, 7, 12), add_special=False)
    assert prompt == Prompt(tokens_of("system, user"), (0, 7, 12))


def test_a_long_prompt_is_settled_later_and_forgotten_then() -> None:
    it = Bench(9999)
    assert it.prompts.prompt(submit(LONG, reuse_points=(3,)), 5.0) is None
    assert (len(it.prompts), 7 in it.prompts, it.settled()) == (1, True, {})
    for _ in range(3):
        it.pool.turn()
    ((request, arrived, outcome),) = it.prompts.settled()
    assert (request.id, arrived) == (7, 5.0)
    assert outcome == Prompt([BOS, *tokens_of(LONG)], (4,))
    assert (len(it.prompts), it.settled()) == (0, {})
    assert it.announced == [(7,), ()] * 3


def test_many_reuse_points_make_a_short_prompt_long() -> None:
    it = Bench(9999)
    assert it.prompts.prompt(submit("x" * 1000, reuse_points=(1, 2, 3, 4)), 0.0) is None


def test_the_same_prompt_is_read_once_and_remembered_for_a_while() -> None:
    it = Bench(9999)
    for id in (1, 2):
        it.prompts.prompt(submit(LONG, id), 0.0)
    it.pool.turn()
    it.prompts.prompt(submit(LONG, 3), 0.0)
    it.pool.turn()
    assert set(it.settled()) == {1, 2, 3}
    assert it.announced[0] == (1, 2)
    for number in range(4):
        it.prompts.prompt(submit(f"{number}{LONG}", 9), 0.0)
        it.pool.turn()
        it.pool.turn()
        it.settled()
    assert len(it.vocabulary.tokenized) == 5
    it.prompts.prompt(submit(LONG, 4), 0.0)
    it.pool.turn()
    assert len(it.vocabulary.tokenized) == 6, "it was remembered for four others at most"


def test_a_prompt_of_other_flags_is_another() -> None:
    it = Bench(9999)
    for id, more in enumerate(({}, {"add_special": False}, {"parse_special": False})):
        it.prompts.prompt(submit(LONG, id, **more), 0.0)
    for _ in range(6):
        it.pool.turn()
    assert len(it.vocabulary.tokenized) == 3
    assert len(it.settled()) == 3


def test_a_dropped_prompt_is_read_for_others_only() -> None:
    it = Bench(9999)
    for id in (1, 2):
        it.prompts.prompt(submit(LONG, id), 0.0)
    it.prompts.drop(1)
    it.pool.turn()
    assert it.announced == [(2,), ()]
    it.prompts.drop(2)
    assert len(it.prompts) == 0
    it.prompts.prompt(submit(LONG, 3), 0.0)
    it.pool.turn()
    it.pool.turn()
    assert set(it.settled()) == {3}
    assert len(it.vocabulary.tokenized) == 2


def test_deadlines_are_known_while_prompts_are_read() -> None:
    it = Bench(9999)
    it.prompts.prompt(submit(LONG, 1, deadline=5.0), 0.0)
    it.prompts.prompt(submit(LONG, 2), 0.0)
    assert it.prompts.deadlines == [5.0, None]
    assert (it.prompts.late(4.0), it.prompts.late(5.0)) == ([], [1])
