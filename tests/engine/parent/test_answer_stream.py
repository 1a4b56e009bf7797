"""One answer as the worker reads it."""

from __future__ import annotations

import asyncio

import pytest

from gguf_worker.engine.messages import Delta, Failure
from gguf_worker.engine.parent.answer_stream import AnswerStream, error_of, hand_over
from gguf_worker.errors import ContextLengthExceeded, Overloaded
from gguf_worker.generation import TokenLogprob, Usage


def make(min_interval: float = 0.0) -> tuple[AnswerStream, list[str]]:
    cancelled: list[str] = []
    return AnswerStream(
        asyncio.get_running_loop(), lambda: cancelled.append("cancel"), min_interval
    ), cancelled


async def test_deltas_that_have_come_together_are_one() -> None:
    stream, _ = make()
    for text in ("a", "b", "c"):
        stream.put(Delta(1, text, 1))
    assert await anext(stream) == Delta(1, "abc", 3)


def logprobs(token: int) -> tuple[TokenLogprob, ...]:
    return (TokenLogprob(token, b"x", -0.5),)


async def test_log_probabilities_are_joined_like_the_text() -> None:
    stream, _ = make()
    stream.put(Delta(1, "a", 1, logprobs=logprobs(1)))
    stream.put(Delta(1, "bc", 2, logprobs=logprobs(2) + logprobs(3)))
    assert await anext(stream) == Delta(
        1, "abc", 3, logprobs=logprobs(1) + logprobs(2) + logprobs(3)
    )


async def test_log_probabilities_that_came_with_a_failure_are_given_once() -> None:
    stream, _ = make()
    stream.put(Delta(1, "a", 1, failure=Failure("overloaded", "full"), logprobs=logprobs(1)))
    assert await anext(stream) == Delta(1, "a", 1, logprobs=logprobs(1))
    with pytest.raises(Overloaded):
        await anext(stream)


async def test_the_finish_and_the_usage_come_with_the_last_text() -> None:
    stream, cancelled = make()
    stream.put(Delta(1, "a", 1))
    stream.put(Delta(1, "b", 1, "stop", None, Usage(3, 2), stop="x"))
    assert await anext(stream) == Delta(1, "ab", 2, "stop", None, Usage(3, 2), stop="x")
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    stream.close()
    assert cancelled == []


async def test_the_usage_of_the_first_delta_stays_with_what_joins_it() -> None:
    stream, _ = make()
    stream.put(Delta(1, "a", 1, usage=Usage(3, 1)))
    stream.put(Delta(1, "b", 1))
    assert await anext(stream) == Delta(1, "ab", 2, usage=Usage(3, 1))
    stream.put(Delta(1, "c", 1))
    stream.put(Delta(1, "d", 1))
    assert await anext(stream) == Delta(1, "cd", 2)


async def test_text_comes_before_the_failure_that_came_with_it() -> None:
    stream, _ = make()
    stream.put(Delta(1, "a", 1))
    stream.put(Delta(1, "b", 1, failure=Failure("overloaded", "full", retry_after=2.0)))
    assert await anext(stream) == Delta(1, "ab", 2)
    with pytest.raises(Overloaded, match="full") as caught:
        await anext(stream)
    assert caught.value.retry_after == 2.0
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_a_delta_that_comes_while_somebody_waits_wakes_them() -> None:
    stream, _ = make()
    waiting = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)
    stream.put(Delta(1, "a", 1))
    assert await asyncio.wait_for(waiting, 5) == Delta(1, "a", 1)


async def test_a_cancelled_wait_loses_nothing() -> None:
    stream, _ = make()
    waiting = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)
    waiting.cancel()
    stream.put(Delta(1, "a", 1))
    assert await anext(stream) == Delta(1, "a", 1)


async def test_a_close_cancels_once_and_ends_the_iteration() -> None:
    stream, cancelled = make()
    stream.put(Delta(1, "a", 1))
    stream.close()
    stream.close()
    assert cancelled == ["cancel"]
    assert [delta async for delta in stream] == []


async def test_a_close_releases_who_waits() -> None:
    stream, _ = make()
    waiting = asyncio.create_task(anext(stream, None))
    await asyncio.sleep(0)
    stream.close()
    assert await asyncio.wait_for(waiting, 5) is None


def test_deltas_of_a_closed_loop_are_dropped() -> None:
    loop = asyncio.new_event_loop()
    stream = AnswerStream(loop, lambda: None)
    loop.close()
    hand_over(loop, [(stream, Delta(1, "a", 1))])


def test_a_failure_is_the_error_of_its_code() -> None:
    error = error_of(Failure("context_length_exceeded", "too long", "prompt", None))
    assert isinstance(error, ContextLengthExceeded)
    assert (error.message, error.param) == ("too long", "prompt")


# A least interval


async def test_with_an_interval_the_first_text_comes_at_once_and_the_next_are_collected() -> None:
    stream, _ = make(min_interval=0.05)
    stream.put(Delta(1, "a", 1))
    assert await anext(stream) == Delta(1, "a", 1)
    stream.put(Delta(1, "b", 1))
    reading = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    stream.put(Delta(1, "c", 1))
    assert await reading == Delta(1, "bc", 2)


@pytest.mark.parametrize(
    "end",
    [Delta(1, "b", 1, "stop", None, Usage(3, 2)), Delta(1, failure=Failure("overloaded", "x"))],
)
async def test_an_end_is_not_held_up_by_the_interval(end: Delta) -> None:
    stream, _ = make(min_interval=60.0)
    stream.put(Delta(1, "a", 1))
    await anext(stream)
    reading = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    stream.put(end)
    async with asyncio.timeout(5):
        if end.failure is None:
            assert await reading == end
        else:
            with pytest.raises(Overloaded):
                await reading


async def test_a_reader_in_an_interval_gets_the_end_of_a_closed_stream() -> None:
    stream, cancelled = make(min_interval=60.0)
    stream.put(Delta(1, "a", 1))
    await anext(stream)
    reading = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    stream.close()
    async with asyncio.timeout(5):
        with pytest.raises(StopAsyncIteration):
            await reading
    assert cancelled == ["cancel"]


async def test_a_whole_answer_is_one_delta_at_its_end() -> None:
    stream = AnswerStream(asyncio.get_running_loop(), lambda: None, whole=True)
    reading = asyncio.ensure_future(anext(stream))
    stream.put(Delta(1, "a", 1))
    await asyncio.sleep(0)
    assert not reading.done()
    stream.put(Delta(1, "b", 1, finish="stop"))
    delta = await reading
    assert (delta.text, delta.tokens, delta.finish) == ("ab", 2, "stop")


async def test_a_whole_answer_that_starts_over_has_nothing_of_what_came_before() -> None:
    stream = AnswerStream(asyncio.get_running_loop(), lambda: None, whole=True)
    stream.put(Delta(1, "a", 1))
    await asyncio.to_thread(stream.start_over)
    await asyncio.sleep(0)
    stream.put(Delta(1, "b", 1, finish="stop"))
    assert (await anext(stream)).text == "b"


async def test_a_whole_answer_that_is_closed_ends_at_once() -> None:
    cancelled: list[str] = []
    stream = AnswerStream(
        asyncio.get_running_loop(), lambda: cancelled.append("cancel"), whole=True
    )
    reading = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    stream.close()
    with pytest.raises(StopAsyncIteration):
        await reading
    assert cancelled == ["cancel"]
