"""A provider of a model that is not always in memory.

Each request waits until the pool has loaded the model, and keeps it in memory until the model has
answered. An answer that is read slowly waits in this process, and keeps no model in memory.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Generic, Protocol, TypeVar

import msgspec

from gguf_worker.providers import (
    Capabilities,
    EmbeddingRequest,
    Embeddings,
    Finish,
    GenerationRequest,
    Part,
    Provider,
    Ranking,
    RankingRequest,
)
from gguf_worker.serving.backlog import Backlog
from gguf_worker.serving.pool import LoadableModel, Pool


class AnsweringModel(LoadableModel, Protocol):
    """A model that has a provider as long as it is in memory."""

    @property
    def provider(self) -> Provider: ...


M = TypeVar("M", bound=AnsweringModel)


class SwappingProvider(Generic[M]):
    """The model `name` of the pool as a Provider. Raises the errors of `Pool.acquire` too.

    `capabilities` returns those of the model, None before it was open. A request beyond them is
    refused without loading the model.
    """

    def __init__(
        self,
        pool: Pool[M],
        name: str,
        *,
        capabilities: Callable[[], Capabilities | None] = lambda: None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool = pool
        self._name = name
        self._capabilities = capabilities
        self._now = now

    async def answer(self, request: GenerationRequest) -> AsyncGenerator[Part, None]:
        """Yield the model's own parts; the wait for the model counts as time in the queue."""
        self._check(request)
        backlog = Backlog()
        filling = asyncio.ensure_future(self._fill(backlog, request))
        filling.add_done_callback(lambda _: backlog.end())
        try:
            async for part in backlog:
                yield part
            await filling  # for its error
        finally:
            filling.cancel()
            await asyncio.gather(filling, return_exceptions=True)

    async def _fill(self, backlog: Backlog, request: GenerationRequest) -> None:
        """Queue the answer as fast as the model makes it, so that a slow reader keeps no model."""
        asked = self._now()
        async with self._pool.acquire(
            self._name, deadline=request.deadline, weight=request.answers
        ) as model:
            waited = self._now() - asked
            async with aclosing(model.provider.answer(request)) as parts:
                async for part in parts:
                    backlog.put(_with_wait(part, waited) if isinstance(part, Finish) else part)

    async def tokens(self, source: str | GenerationRequest, *, add_special: bool) -> list[int]:
        deadline = source.deadline if isinstance(source, GenerationRequest) else None
        async with self._pool.acquire(self._name, deadline=deadline) as model:
            return await model.provider.tokens(source, add_special=add_special)

    async def text(self, tokens: Sequence[int]) -> str:
        async with self._pool.acquire(self._name) as model:
            return await model.provider.text(tokens)

    async def pieces(self, tokens: Sequence[int]) -> list[bytes]:
        async with self._pool.acquire(self._name) as model:
            return await model.provider.pieces(tokens)

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        self._check(request)
        async with self._pool.acquire(self._name, deadline=request.deadline) as model:
            return await model.provider.embed(request)

    async def rank(self, request: RankingRequest) -> Ranking:
        self._check(request)
        async with self._pool.acquire(self._name, deadline=request.deadline) as model:
            return await model.provider.rank(request)

    def _check(self, request: GenerationRequest | EmbeddingRequest | RankingRequest) -> None:
        if (known := self._capabilities()) is not None:
            known.check(request)


def _with_wait(finish: Finish, waited: float) -> Finish:
    """Add the seconds of the wait to the answer's times."""
    usage = finish.usage
    return replace(
        finish,
        usage=msgspec.structs.replace(
            usage,
            queue_seconds=usage.queue_seconds + waited,
            ttft_seconds=usage.ttft_seconds + waited,
            seconds=usage.seconds + waited,
        ),
    )
