"""Questions to the engine, open until somebody answers or nobody will."""

from __future__ import annotations

import asyncio

import pytest

from gguf_worker.engine.messages import Failure, Reply
from gguf_worker.engine.parent.pending_replies import PendingReplies
from gguf_worker.errors import EngineUnavailable, InvalidRequest


async def test_an_answer_from_another_thread_reaches_who_asked() -> None:
    questions = PendingReplies()
    first, second = questions.add(1), questions.add(2)
    await asyncio.to_thread(questions.answer, Reply(2, tokens=[5]))
    assert await second == Reply(2, tokens=[5])
    assert not first.done()


async def test_a_failure_is_the_error_of_its_code() -> None:
    questions = PendingReplies()
    answer = questions.add(1)
    questions.answer(Reply(1, failure=Failure("invalid_request", "long", "prompt")))
    with pytest.raises(InvalidRequest, match="long") as caught:
        await answer
    assert caught.value.param == "prompt"


async def test_all_that_are_open_fail_together() -> None:
    questions = PendingReplies()
    answers = [questions.add(id) for id in (1, 2)]
    questions.fail("gone")
    for answer in answers:
        with pytest.raises(EngineUnavailable, match="gone"):
            await answer


async def test_an_answer_to_what_nobody_waits_for_is_nothing() -> None:
    questions = PendingReplies()
    cancelled = questions.add(1)
    cancelled.cancel()
    questions.drop(2)
    questions.answer(Reply(1))
    questions.answer(Reply(2))
    await asyncio.sleep(0)
    assert cancelled.cancelled()


def test_a_closed_loop_has_nobody_left_to_tell() -> None:
    questions = PendingReplies()

    async def ask() -> None:
        questions.add(1)

    asyncio.run(ask())
    questions.answer(Reply(1))
