"""Replies to questions: when they come, in how many parts, and what is refused."""

from __future__ import annotations

import pytest

from gguf_worker.engine.loop.questions import (
    MOST_TOKENS,
    MOST_WAITING,
    Question,
    Questions,
)
from gguf_worker.engine.messages import DetokenizeTokens, Failure, Reply, TokenizeText
from tests.fake_backend import BOS, VOCABULARY, FakeTokenizers, FakeVocabulary, tokens_of


class Bench:
    def __init__(self) -> None:
        self.announced: list[tuple[int, ...]] = []
        self.replies: list[Reply] = []
        self.pool = FakeTokenizers(self.announced.append, held=True)
        self.questions = Questions(FakeVocabulary(), self.pool, self.replies.append)

    def ask(self, question: Question) -> Failure | None:
        """Return the failure that is the only reply; None if there is none yet."""
        self.questions.ask(question)
        if not self.replies:
            return None
        (reply,) = self.replies
        assert (reply.id, reply.last) == (question.id, True)
        return reply.failure


def test_short_questions_are_answered_at_once_and_announced() -> None:
    it = Bench()
    it.questions.ask(TokenizeText(1, "ab"))
    it.questions.ask(DetokenizeTokens(2, [BOS, *tokens_of("é")]))
    assert it.replies == [Reply(1, [BOS, 97, 98]), Reply(2, text="<begin>é")]
    assert it.announced == [(1,), (), (2,), ()]
    assert len(it.questions) == 0


def test_tokens_are_told_by_the_bytes_of_each() -> None:
    it = Bench()
    it.questions.ask(DetokenizeTokens(1, [BOS, *tokens_of("\u00e9")], pieces=True))
    assert it.replies == [Reply(1, pieces=[b"<begin>", b"\xc3", b"\xa9"])]


def test_a_long_reply_is_sent_in_parts_one_at_a_time() -> None:
    it = Bench()
    text = "x" * 70_000
    it.questions.ask(TokenizeText(1, text, add_special=False))
    it.questions.send_some()
    assert it.replies == []
    it.pool.turn()
    it.pool.turn()
    for count in (1, 2, 3, 3):
        it.questions.send_some()
        assert len(it.replies) == count
    assert [reply.last for reply in it.replies] == [False, False, True]
    assert [token for reply in it.replies for token in reply.tokens] == tokens_of(text)
    assert len(it.questions) == 0


def test_a_long_text_comes_back_in_parts() -> None:
    it = Bench()
    it.questions.ask(DetokenizeTokens(1, tokens_of("y") * 40_000))
    for _ in range(3):
        it.pool.turn()
    it.questions.send_some()
    it.questions.send_some()
    assert "".join(reply.text for reply in it.replies) == "y" * 40_000


@pytest.mark.parametrize(
    "question",
    [
        TokenizeText(3, "deep"),
        TokenizeText(3, "x" * (4 * MOST_TOKENS + 1)),
        DetokenizeTokens(3, [1] * (MOST_TOKENS + 1)),
        DetokenizeTokens(3, [VOCABULARY]),
        DetokenizeTokens(3, [*[1] * 50_000, -1]),
    ],
    ids=["unreadable", "long text", "many tokens", "unknown token", "negative token"],
)
def test_what_cannot_be_read_is_refused(question: Question) -> None:
    it = Bench()
    failure = it.ask(question)
    for _ in range(3):
        if failure is None:
            it.pool.turn()
            it.questions.send_some()
            failure = it.replies[0].failure if it.replies else None
    assert failure is not None
    assert failure.code == "invalid_request"


def test_a_text_is_read_until_it_has_too_many_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    it = Bench()
    monkeypatch.setattr("gguf_worker.engine.loop.questions.MOST_TOKENS", 9000)
    it.questions.ask(TokenizeText(1, ("<cut>" + "x" * 4000) * 8))
    for _ in range(4):
        it.pool.turn()
    it.questions.send_some()
    assert it.replies[0].failure is not None


def test_only_so_many_wait() -> None:
    it = Bench()
    for id in range(MOST_WAITING):
        assert it.ask(TokenizeText(id, "x" * 5000)) is None
    failure = it.ask(TokenizeText(99, "a"))
    assert failure is not None
    assert (failure.code, failure.retry_after) == ("overloaded", 1.0)


def test_a_question_may_be_dropped_at_any_time() -> None:
    it = Bench()
    it.questions.ask(TokenizeText(1, "x" * 5000))
    it.questions.drop(1)
    with pytest.raises(AssertionError):
        it.pool.turn()
    it.questions.ask(TokenizeText(2, "x" * 70_000))
    it.pool.turn()
    it.pool.turn()
    it.questions.send_some()
    assert 2 in it.questions
    it.questions.drop(2)
    it.questions.send_some()
    assert (len(it.replies), len(it.questions)) == (1, 0)
