"""Parts of an answer that have come and are not read yet. Who reads slowly gets fewer and larger ones."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import replace

from gguf_worker.providers import Part, TextDelta, ToolCallDelta


class Backlog:
    """For one writer and one reader, which iterates over it until `end`. Never full."""

    def __init__(self) -> None:
        self._parts: deque[Part] = deque()
        self._news = asyncio.Event()
        self._ended = False

    def put(self, part: Part) -> None:
        self._parts.append(part)
        self._news.set()

    def end(self) -> None:
        """Nothing more comes; what is there can still be read."""
        self._ended = True
        self._news.set()

    async def __aiter__(self) -> AsyncIterator[Part]:
        while True:
            while self._parts:
                yield self._next()
            if self._ended:
                return
            self._news.clear()
            await self._news.wait()

    def _next(self) -> Part:
        """The next part, and all that continue it."""
        run = [self._parts.popleft()]
        while self._parts and _continues(run[-1], self._parts[0]):
            run.append(self._parts.popleft())
        return run[0] if len(run) == 1 else _joined(run)


def _continues(part: Part, other: Part) -> bool:
    match part, other:
        case TextDelta(), TextDelta():
            return (part.index, part.channel) == (other.index, other.channel)
        case ToolCallDelta(), ToolCallDelta():
            return (part.index, part.call) == (other.index, other.call)
    return False


def _joined(run: list[Part]) -> Part:
    """Of parts that continue each other."""
    pieces = [part for part in run if isinstance(part, TextDelta | ToolCallDelta)]
    first, tokens = pieces[0], sum(piece.tokens for piece in pieces)
    text = "".join(piece.text for piece in pieces)
    if isinstance(first, ToolCallDelta):
        return replace(first, text=text, tokens=tokens)
    logprobs = [each for piece in pieces if isinstance(piece, TextDelta) for each in piece.logprobs]
    return replace(first, text=text, tokens=tokens, logprobs=tuple(logprobs))
