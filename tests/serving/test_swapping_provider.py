"""A provider that waits for its model: what it passes on, and how long the model stays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any, cast

import pytest

from gguf_worker.errors import InvalidRequest, Overloaded
from gguf_worker.generation import Sampling
from gguf_worker.providers import (
    Capabilities,
    EmbeddingRequest,
    Finish,
    GenerationRequest,
    RankingRequest,
    TextDelta,
)
from gguf_worker.serving.pool import Pool
from gguf_worker.serving.swapping_provider import SwappingProvider
from tests.fakes import USAGE, FakeClock, ScriptedProvider, text_deltas
from tests.waiting import until_async


class FakeModel:
    def __init__(self, provider: ScriptedProvider) -> None:
        self.provider = provider


class FakePool:
    """Gives the model after `wait` seconds of the clock, and counts its users."""

    def __init__(self, provider: ScriptedProvider, clock: FakeClock, wait: float = 0.0) -> None:
        self.model = FakeModel(provider)
        self.clock = clock
        self.wait = wait
        self.inside = 0
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.refusal: Overloaded | None = None

    @asynccontextmanager
    async def acquire(self, name: str, **options: Any) -> AsyncIterator[FakeModel]:
        self.asked.append((name, options))
        if self.refusal is not None:
            raise self.refusal
        self.clock.advance(self.wait)
        self.inside += 1
        try:
            yield self.model
        finally:
            self.inside -= 1


def request(**given: Any) -> GenerationRequest:
    return GenerationRequest("w", Sampling(), prompts=("a",), **given)


def swapping(pool: FakePool) -> SwappingProvider[Any]:
    return SwappingProvider(cast(Pool[Any], pool), "small", now=pool.clock)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


async def test_the_model_stays_until_the_answer_has_ended(clock: FakeClock) -> None:
    more = asyncio.Event()
    pool = FakePool(ScriptedProvider(TextDelta("a", 1), more, text_deltas("b")), clock)
    seen = []
    async for part in swapping(pool).answer(request(n=3, deadline=9.0)):
        seen.append(part)
        assert pool.inside == (not more.is_set())
        more.set()
    assert pool.inside == 0
    assert [part.text for part in seen if isinstance(part, TextDelta)] == ["a", "b"]
    assert pool.asked == [("small", {"deadline": 9.0, "weight": 3})]


async def test_a_slow_reader_keeps_no_model_that_has_done_its_part(clock: FakeClock) -> None:
    pool = FakePool(ScriptedProvider(text_deltas("a", "b", "c")), clock)
    async with aclosing(swapping(pool).answer(request())) as parts:
        read = [await anext(parts)]
        await until_async(lambda: pool.inside == 0)
        read += [part async for part in parts]
    assert "".join(part.text for part in read if isinstance(part, TextDelta)) == "abc"
    assert isinstance(read[-1], Finish)


async def test_parts_that_came_before_an_error_are_read_before_it(clock: FakeClock) -> None:
    pool = FakePool(ScriptedProvider(TextDelta("a", 1), Overloaded("the model")), clock)
    parts = swapping(pool).answer(request())
    assert await anext(parts) == TextDelta("a", 1)
    with pytest.raises(Overloaded):
        await anext(parts)


async def test_the_wait_counts_as_time_in_the_queue(clock: FakeClock) -> None:
    pool = FakePool(ScriptedProvider(text_deltas("a")), clock, wait=2.0)
    parts = [part async for part in swapping(pool).answer(request())]
    finish = parts[-1]
    assert isinstance(finish, Finish)
    assert finish.usage.queue_seconds == USAGE.queue_seconds + 2
    assert finish.usage.ttft_seconds == USAGE.ttft_seconds + 2
    assert finish.usage.seconds == USAGE.seconds + 2
    assert finish.usage.tokens_per_second == pytest.approx(USAGE.tokens_per_second)


async def test_an_answer_that_is_given_up_releases_the_model(clock: FakeClock) -> None:
    pool = FakePool(ScriptedProvider(TextDelta("a", 1), asyncio.Event()), clock)
    async with aclosing(swapping(pool).answer(request())) as parts:
        await anext(parts)
        assert pool.inside == 1
    assert pool.inside == 0
    assert pool.model.provider.closed == 1


async def test_an_error_of_the_model_or_of_the_pool_ends_the_answer(clock: FakeClock) -> None:
    pool = FakePool(ScriptedProvider(Overloaded("the model")), clock)
    with pytest.raises(Overloaded, match="the model"):
        [part async for part in swapping(pool).answer(request())]
    assert pool.inside == 0
    pool.refusal = Overloaded("the pool")
    with pytest.raises(Overloaded, match="the pool"):
        [part async for part in swapping(pool).answer(request())]


async def test_for_what_the_model_cannot_do_it_is_not_loaded(clock: FakeClock) -> None:
    pool = FakePool(ScriptedProvider(), clock)
    known: list[Capabilities] = []
    provider = SwappingProvider(
        cast(Pool[Any], pool), "small", capabilities=lambda: known[0] if known else None
    )
    await provider.embed(EmbeddingRequest("e", ("a",)))
    assert len(pool.asked) == 1, "it is not known before it was open"
    known.append(Capabilities(most_answers=2))
    with pytest.raises(InvalidRequest, match="no embeddings"):
        await provider.embed(EmbeddingRequest("e", ("a",)))
    with pytest.raises(InvalidRequest, match="no scores"):
        await provider.rank(RankingRequest("r", "a", ("b",)))
    with pytest.raises(InvalidRequest, match="3 answers are more"):
        await anext(provider.answer(request(n=3)))
    known[0] = Capabilities(generates=False, pooling="rank")
    with pytest.raises(InvalidRequest, match="writes no text"):
        await anext(provider.answer(request()))
    with pytest.raises(InvalidRequest, match="a reranker"):
        await provider.embed(EmbeddingRequest("e", ("a",)))
    assert len(pool.asked) == 1
    await provider.rank(RankingRequest("r", "a", ("b",)))
    known[0] = Capabilities(generates=False, pooling="mean")
    await provider.embed(EmbeddingRequest("e", ("a",)))
    assert len(pool.asked) == 3


async def test_all_else_that_a_model_gives_waits_for_the_model_too(clock: FakeClock) -> None:
    pool = FakePool(ScriptedProvider(), clock)
    provider = swapping(pool)
    assert await provider.tokens("ab", add_special=False) == [97, 98]
    assert await provider.text([97, 98]) == "ab"
    await provider.tokens(
        GenerationRequest(
            "w", Sampling(), messages=({"role": "user", "content": "a"},), deadline=7.0
        ),
        add_special=True,
    )
    await provider.embed(EmbeddingRequest("e", ("a",), deadline=8.0))
    await provider.rank(RankingRequest("r", "a", ("b",), deadline=9.0))
    assert [options.get("deadline") for _, options in pool.asked] == [None, None, 7.0, 8.0, 9.0]
    assert pool.inside == 0
