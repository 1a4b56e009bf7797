"""Small fakes at the boundaries between rooms, shared by the tests."""

from __future__ import annotations

import asyncio
import math
import struct
import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from gguf_worker.generation import Usage
from gguf_worker.providers import (
    EmbeddingRequest,
    Embeddings,
    Ended,
    Finish,
    GenerationRequest,
    Part,
    Ranking,
    RankingRequest,
    TextDelta,
)

USAGE = Usage(
    prompt_tokens=7,
    completion_tokens=3,
    cached_tokens=2,
    queue_seconds=0.01,
    prefill_seconds=0.02,
    ttft_seconds=0.03,
    seconds=0.13,
    reasoning_tokens=1,
)

Step = Part | BaseException | asyncio.Event


def stop(usage: Usage = USAGE, *, warnings: tuple[str, ...] = ()) -> Finish:
    return Finish("stop", usage, warnings=warnings)


def text_deltas(*texts: str) -> list[Step]:
    """Return a delta of one token for each text, then an ordinary end."""
    return [*(TextDelta(text, 1) for text in texts), stop()]


def answers(*texts: str, usage: Usage = USAGE) -> list[Step]:
    """Return one answer for each text, a delta for each letter, in turns; the longest ends last."""
    steps: list[Step] = []
    for at in range(max(map(len, texts))):
        steps += [
            TextDelta(text[at], 1, index) for index, text in enumerate(texts) if at < len(text)
        ]
        steps += [Ended("stop", index) for index, text in enumerate(texts) if len(text) == at + 1]
    last = steps.pop()
    assert isinstance(last, Ended)
    return [*steps, Finish("length", usage, last.index)]


class ScriptedProvider:
    """Answers each request by its script: yields parts, raises errors, waits for events.

    `requests` are those it was asked; `closed` counts the answers that have ended, in whatever way.
    For tests on another thread: `parked` is set while it waits, `ended` when an answer is over.
    Vectors and scores come when the script, of errors and waits only, is at its end.
    """

    def __init__(self, *script: Step | list[Step]) -> None:
        self.script = [
            step for part in script for step in (part if isinstance(part, list) else [part])
        ]
        self.requests: list[GenerationRequest] = []
        self.embedded: list[EmbeddingRequest] = []
        self.ranked: list[RankingRequest] = []
        self.closed = 0
        self.parked = threading.Event()
        self.ended = threading.Event()

    async def tokens(self, source: str | GenerationRequest, *, add_special: bool) -> list[int]:
        """Return the bytes of a text, or of a chat's last message; a 1 before them where wanted."""
        if isinstance(source, GenerationRequest):
            self.requests.append(source)
            assert source.messages is not None
            source = str(source.messages[-1]["content"])
        return [1] * add_special + list(source.encode())

    async def text(self, tokens: Sequence[int]) -> str:
        return bytes(tokens).decode()

    async def pieces(self, tokens: Sequence[int]) -> list[bytes]:
        return [bytes([token]) for token in tokens]

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """Return vectors by the lengths of their inputs; each character or id is a token."""
        self.embedded.append(request)
        assert [step async for step in self._played()] == []
        vectors = [vector(len(each))[: request.dimensions] for each in request.inputs]
        return Embeddings(
            tuple(struct.pack(f"<{len(each)}f", *each) for each in vectors),
            sum(map(len, request.inputs)),
        )

    async def rank(self, request: RankingRequest) -> Ranking:
        """Return a score for each document: its length, less four."""
        self.ranked.append(request)
        assert [step async for step in self._played()] == []
        scores = tuple(float(len(each) - 4) for each in request.documents)
        return Ranking(scores, sum(len(request.query) + len(each) for each in request.documents))

    async def answer(self, request: GenerationRequest) -> AsyncGenerator[Part, None]:
        self.requests.append(request)
        async with aclosing(self._played()) as parts:
            async for part in parts:
                yield part

    async def _played(self) -> AsyncGenerator[Part, None]:
        try:
            for step in self.script:
                if isinstance(step, asyncio.Event):
                    self.parked.set()
                    await step.wait()
                elif isinstance(step, BaseException):
                    raise step
                else:
                    yield step
        finally:
            self.closed += 1
            self.ended.set()


def vector(seed: int) -> list[float]:
    """Return a vector of four dimensions and of length 1."""
    return [math.cos(seed) * 0.6, math.sin(seed) * 0.6, 0.64, -0.48]


class FakeClock:
    """A clock that stands still until it is advanced; `per_look` seconds pass at each look."""

    def __init__(self, start: float = 1000.0, per_look: float = 0.0) -> None:
        self.time = start
        self._per_look = per_look

    def __call__(self) -> float:
        self.time += self._per_look
        return self.time

    def advance(self, seconds: float) -> None:
        self.time += seconds
