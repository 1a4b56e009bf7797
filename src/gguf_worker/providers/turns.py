"""Answers from a model that is not always in memory: each wish first waits for the model's turn, and holds the
model there until the model has done its part. What is read slowly waits in this process, and holds nobody up.

Whose turn it is, and what makes way for it, the pool knows.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Generic, Protocol, TypeVar

from gguf_worker.models.pool import Pool, Tenant
from gguf_worker.providers.abilities import Abilities
from gguf_worker.providers.backlog import Backlog
from gguf_worker.providers.request import (
    Embeddings,
    EmbeddingWish,
    Finish,
    Part,
    Provider,
    Ranking,
    RankingWish,
    Wish,
)


class Served(Tenant, Protocol):
    """A model that has a provider as long as it is in memory."""

    @property
    def provider(self) -> Provider: ...


S = TypeVar("S", bound=Served)


class InTurn(Generic[S]):
    """The model `name` of the pool as a Provider. Errors of the pool's `turn` come beside the model's own.

    `abilities`: what is known of the model; None before it was open. Nobody makes way for what it can't do.
    """

    def __init__(
        self,
        pool: Pool[S],
        name: str,
        *,
        abilities: Callable[[], Abilities | None] = lambda: None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool = pool
        self._name = name
        self._abilities = abilities
        self._now = now

    async def answer(self, wish: Wish) -> AsyncGenerator[Part, None]:
        """As the model's own; what was waited for the model counts as time in the queue."""
        self._check(wish)
        backlog = Backlog()
        filling = asyncio.ensure_future(self._fill(backlog, wish))
        filling.add_done_callback(lambda _: backlog.end())
        try:
            async for part in backlog:
                yield part
            await filling  # for its error
        finally:
            filling.cancel()
            await asyncio.gather(filling, return_exceptions=True)

    async def _fill(self, backlog: Backlog, wish: Wish) -> None:
        """At the model's pace: its turn may be over before the answer is read."""
        asked = self._now()
        async with self._pool.turn(
            self._name, deadline=wish.deadline, weight=wish.answers
        ) as model:
            waited = self._now() - asked
            async with aclosing(model.provider.answer(wish)) as parts:
                async for part in parts:
                    backlog.put(_later(part, waited) if isinstance(part, Finish) else part)

    async def tokens(self, source: str | Wish, *, add_special: bool) -> list[int]:
        deadline = source.deadline if isinstance(source, Wish) else None
        async with self._pool.turn(self._name, deadline=deadline) as model:
            return await model.provider.tokens(source, add_special=add_special)

    async def text(self, tokens: Sequence[int]) -> str:
        async with self._pool.turn(self._name) as model:
            return await model.provider.text(tokens)

    async def embed(self, wish: EmbeddingWish) -> Embeddings:
        self._check(wish)
        async with self._pool.turn(self._name, deadline=wish.deadline) as model:
            return await model.provider.embed(wish)

    async def rank(self, wish: RankingWish) -> Ranking:
        self._check(wish)
        async with self._pool.turn(self._name, deadline=wish.deadline) as model:
            return await model.provider.rank(wish)

    def _check(self, wish: Wish | EmbeddingWish | RankingWish) -> None:
        if (known := self._abilities()) is not None:
            known.check(wish)


def _later(finish: Finish, waited: float) -> Finish:
    usage = finish.usage
    return replace(
        finish,
        usage=replace(
            usage,
            queue_seconds=usage.queue_seconds + waited,
            ttft_seconds=usage.ttft_seconds + waited,
            seconds=usage.seconds + waited,
        ),
    )
