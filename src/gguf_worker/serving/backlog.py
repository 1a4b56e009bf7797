"""The queue of an answer's parts that are not read yet.

A slow reader gets fewer and larger parts.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import replace

from gguf_worker.providers import Part, TextDelta, ToolCallDelta


class Backlog:
    """An unbounded queue for one writer and one reader, which iterates over it until `end`."""

    def __init__(self) -> None:
        self._parts: deque[Part] = deque()
        self._news = asyncio.Event()
        self._ended = False

    def put(self, part: Part) -> None:
        self._parts.append(part)
        self._news.set()

    def end(self) -> None:
        """Mark the end of the parts. Parts in the queue can still be read."""
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
        """Return the next part, joined with all that continue it."""
        run = [self._parts.popleft()]
        while self._parts and _continues(run[-1], self._parts[0]):
            run.append(self._parts.popleft())
        return run[0] if len(run) == 1 else _join(run)


def _continues(part: Part, other: Part) -> bool:
    match part, other:
        case TextDelta(), TextDelta():
            return (part.index, part.channel) == (other.index, other.channel)
        case ToolCallDelta(), ToolCallDelta():
            return (part.index, part.call) == (other.index, other.call)
    return False


def _join(run: list[Part]) -> Part:
    """Make one part of several that continue each other."""
    deltas = [part for part in run if isinstance(part, TextDelta | ToolCallDelta)]
    first, tokens = deltas[0], sum(delta.tokens for delta in deltas)
    text = "".join(delta.text for delta in deltas)
    if isinstance(first, ToolCallDelta):
        return replace(first, text=text, tokens=tokens)
    texts = [delta for delta in deltas if isinstance(delta, TextDelta)]
    return replace(
        first,
        text=text,
        tokens=tokens,
        logprobs=tuple(each for delta in texts for each in delta.logprobs),
        prompt_logprobs=tuple(each for delta in texts for each in delta.prompt_logprobs),
    )
