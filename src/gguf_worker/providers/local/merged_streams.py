"""Merges several streams into one, each item as soon as it is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import TypeVar

T = TypeVar("T")


async def merged(streams: Sequence[AsyncIterator[T]]) -> AsyncGenerator[tuple[int, T], None]:
    """Yield each item with the index of its stream, until all have ended or one has raised.

    A stream is asked for its next item when the reader has dealt with the previous one. At the end,
    also by an error, no read is pending; the caller closes the streams.
    """
    reads = {asyncio.ensure_future(anext(stream)): at for at, stream in enumerate(streams)}
    try:
        while reads:
            done, _ = await asyncio.wait(reads, return_when=asyncio.FIRST_COMPLETED)
            for read in sorted(done, key=reads.__getitem__):
                index = reads.pop(read)
                if isinstance(read.exception(), StopAsyncIteration):
                    continue
                yield index, read.result()
                reads[asyncio.ensure_future(anext(streams[index]))] = index
    finally:
        for read in reads:
            read.cancel()
        # The first failure is raised for all; asyncio would log every other one that is not
        # retrieved.
        await asyncio.gather(*reads, return_exceptions=True)
