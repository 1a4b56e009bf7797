"""Texts to tokens and back, and what is said about them meanwhile."""

from __future__ import annotations

from typing import Any

import pytest

from gguf_worker.engine.loop.tokenizing import MOST_CHARACTERS, MOST_TOKENS, PromptTokenizer
from gguf_worker.engine.messages import (
    DetokenizeTokens,
    EngineRequest,
    Failure,
    FromEngine,
    Reply,
    Submit,
    TokenizeText,
    Tokenizing,
)
from gguf_worker.generation import Sampling
from tests.fake_backend import BOS, END, VOCABULARY, FakeVocabulary, tokens_of


def made() -> tuple[PromptTokenizer, list[FromEngine]]:
    sent: list[FromEngine] = []
    return PromptTokenizer(FakeVocabulary(), 32, sent.append), sent


def submit(prompt: str | list[int], **more: Any) -> Submit:
    return Submit(7, EngineRequest(prompt, Sampling(), **more))


def code(outcome: list[int] | Failure) -> str:
    assert isinstance(outcome, Failure)
    return outcome.code


def test_a_prompt_is_read_as_its_flags_say_and_announced() -> None:
    reader, sent = made()
    assert reader.prompt(submit("a<end>")) == [BOS, ord("a"), END]
    plain = submit("<end>", add_special=False, parse_special=False)
    assert reader.prompt(plain) == tokens_of("<end>")
    assert sent == [Tokenizing((7,)), Tokenizing(())] * 2


def test_tokens_are_taken_as_they_are_without_a_word() -> None:
    reader, sent = made()
    assert reader.prompt(submit([1, 2])) == [1, 2]
    assert sent == []


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ([], "invalid_request"),
        ([VOCABULARY], "invalid_request"),
        ([-1], "invalid_request"),
        ([1] * 32, "context_length_exceeded"),
        ([1] * 31 + [VOCABULARY], "context_length_exceeded"),  # too many to look at each
        ("x" * 32, "context_length_exceeded"),
    ],
)
def test_a_prompt_that_cannot_be_computed_is_refused(
    prompt: str | list[int], expected: str
) -> None:
    assert code(made()[0].prompt(submit(prompt))) == expected


def test_a_text_that_the_vocabulary_refuses_is_a_failure_and_no_longer_announced() -> None:
    reader, sent = made()
    expected = Failure("invalid_request", "too deep", param="prompt")
    assert reader.prompt(submit("deep")) == expected
    assert reader.reply(TokenizeText(8, "deep")) == Reply(8, failure=expected)
    points = submit("deeper", reuse_points=(2, 4, 6), add_special=False)
    assert reader.reuse_points(points, tokens_of("deeper")) == (2,)
    assert sent[:4] == [Tokenizing((7,)), Tokenizing(()), Tokenizing((8,)), Tokenizing(())]
    assert sent[-1] == Tokenizing(())


def test_reuse_points_are_where_the_tokens_of_the_beginning_agree() -> None:
    reader, _ = made()
    request = submit("system, user", reuse_points=(0, 7, 12), add_special=False)
    prompt = reader.prompt(request)
    assert isinstance(prompt, list)
    assert reader.reuse_points(request, prompt) == (0, 7, 12)
    assert reader.reuse_points(submit([1], reuse_points=(1,)), [1]) == ()


def test_questions_are_answered_within_bounds() -> None:
    reader, sent = made()
    longest = "x" * MOST_CHARACTERS
    assert len(reader.reply(TokenizeText(1, longest, False)).tokens) == MOST_CHARACTERS
    assert reader.reply(DetokenizeTokens(2, [BOS, *tokens_of("é")])) == Reply(2, text="<begin>é")
    assert sent == [Tokenizing((1,)), Tokenizing(()), Tokenizing((2,)), Tokenizing(())]
    sent.clear()
    for question in (
        TokenizeText(3, longest + "x"),
        DetokenizeTokens(3, [1] * (MOST_TOKENS + 1)),
        DetokenizeTokens(3, [VOCABULARY]),
    ):
        failure = reader.reply(question).failure
        assert failure is not None
        assert failure.code == "invalid_request"
    assert sent == []
