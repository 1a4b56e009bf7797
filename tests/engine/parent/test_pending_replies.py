"""Questions to the engine, which wait until their reply comes or none will."""

from __future__ import annotations

import asyncio

import pytest

from gguf_worker.engine.messages import Failure, Reply
from gguf_worker.engine.parent.pending_replies import PendingReplies
from gguf_worker.errors import EngineUnavailable, InvalidRequest


async def test_an_answer_from_another_thread_reaches_who_asked() -> None:
    replies = PendingReplies()
    first, second = replies.add(1, 1), replies.add(2, 1)
    await asyncio.to_thread(replies.answer, Reply(2, tokens=[5]))
    assert await second == Reply(2, tokens=[5])
    assert not first.done()


async def test_the_parts_of_a_reply_are_joined() -> None:
    replies = PendingReplies()
    tokens, text = replies.add(1, 1), replies.add(2, 1)
    replies.answer(Reply(1, tokens=[5], last=False))
    replies.answer(Reply(2, text="a", last=False))
    replies.answer(Reply(1, tokens=[6], last=False))
    replies.answer(Reply(3, tokens=[9], last=False))
    replies.answer(Reply(2, text="b"))
    assert not tokens.done()
    replies.answer(Reply(1, tokens=[7]))
    assert (await tokens).tokens == [5, 6, 7]
    assert (await text).text == "ab"


async def test_pieces_come_in_parts_too() -> None:
    replies = PendingReplies()
    pieces = replies.add(1, 1)
    replies.answer(Reply(1, pieces=[b"a", b"\xf0"], last=False))
    replies.answer(Reply(1, pieces=[b"b"]))
    assert (await pieces).pieces == [b"a", b"\xf0", b"b"]


async def test_a_failure_is_the_error_of_its_code() -> None:
    replies = PendingReplies()
    answer = replies.add(1, 1)
    replies.answer(Reply(1, failure=Failure("invalid_request", "long", "prompt")))
    with pytest.raises(InvalidRequest, match="long") as caught:
        await answer
    assert caught.value.param == "prompt"


async def test_all_that_are_open_fail_together() -> None:
    replies = PendingReplies()
    answers = [replies.add(id, 1) for id in (1, 2)]
    replies.fail("gone")
    for answer in answers:
        with pytest.raises(EngineUnavailable, match="gone"):
            await answer


async def test_an_answer_to_what_nobody_waits_for_is_nothing() -> None:
    replies = PendingReplies()
    cancelled = replies.add(1, 1)
    cancelled.cancel()
    replies.drop(2)
    replies.answer(Reply(1))
    replies.answer(Reply(2))
    await asyncio.sleep(0)
    assert cancelled.cancelled()


def test_replies_to_a_closed_loop_are_dropped() -> None:
    replies = PendingReplies()

    async def ask() -> None:
        replies.add(1, 1)

    asyncio.run(ask())
    replies.answer(Reply(1))
