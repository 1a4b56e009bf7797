"""One request's answer as the worker reads it: an async iterator of deltas, joined until they are
read.

Belongs to one event loop. Knows neither the process nor the socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Callable, Iterable, Sequence

import msgspec

from gguf_worker.engine.messages import Delta, Failure
from gguf_worker.errors import ERRORS_BY_CODE, WorkerError


class AnswerStream:
    """An async iterator of deltas, each joined from all that came since the one before.

    Ends after the delta with `finish`; a failure is raised as the WorkerError of its code. `close`
    cancels the request, at any time and any number of times; a reader that waits for a delta then
    gets the end of the iteration.
    `min_interval`: least seconds from one delta to the next. The first and the last come at once.
    `whole`: all comes in one delta, at the end, so that until then the answer can start over.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        cancel: Callable[[], None],
        min_interval: float = 0.0,
        *,
        whole: bool = False,
    ) -> None:
        self.loop = loop
        self.whole = whole
        self._min_interval = min_interval
        self._next_at = -math.inf  # earliest time of the next delta, on the loop's clock
        self._over = asyncio.Event()  # set with the last delta, or by `close`
        self._cancel = cancel
        self._arrived = asyncio.Event()
        self._pending: list[Delta] = []
        self._ended = False
        self._closed = False

    def put(self, delta: Delta) -> None:
        """Add a delta that has come; called on the stream's loop."""
        self._pending.append(delta)
        if delta.last:
            self._over.set()
        self._arrived.set()

    def start_over(self) -> None:
        """Drop the deltas that were handed over before, of a `whole` answer; from any thread."""

        def drop() -> None:
            self._pending = []

        with contextlib.suppress(RuntimeError):  # a closed loop has no reader left
            self.loop.call_soon_threadsafe(drop)

    def __aiter__(self) -> AsyncIterator[Delta]:
        return self

    async def __anext__(self) -> Delta:
        if self._ended or self._closed:
            raise StopAsyncIteration
        if self._min_interval:
            await self._wait_for_interval()
        if self.whole:
            await self._over.wait()
        while not self._pending and not self._closed:
            self._arrived.clear()
            await self._arrived.wait()
        if self._closed:
            raise StopAsyncIteration
        if self._min_interval:
            self._next_at = self.loop.time() + self._min_interval
        pending, self._pending = self._pending, []
        last = pending[-1]
        if last.failure is not None and any(delta.text for delta in pending):
            # The text that came before the failure goes first; the failure is raised next time.
            self._pending = [msgspec.structs.replace(last, text="", tokens=0, logprobs=())]
        elif last.failure is not None:
            self._ended = True
            raise error_of(last.failure)
        self._ended = last.finish is not None
        return last if len(pending) == 1 and last.failure is None else _joined(pending)

    async def _wait_for_interval(self) -> None:
        left = self._next_at - self.loop.time()
        if left > 0 and not self._over.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._over.wait()

    def close(self) -> None:
        """End the iteration, and cancel the request unless it has ended."""
        if not self._closed:
            self._closed = True
            self._over.set()
            self._arrived.set()
            if not self._ended:
                self._cancel()


def _joined(deltas: Sequence[Delta]) -> Delta:
    """Join deltas into one, without the failure of the last."""
    last = deltas[-1]
    return Delta(
        last.id,
        "".join(delta.text for delta in deltas),
        sum(delta.tokens for delta in deltas),
        last.finish,
        usage=last.usage if last.finish is not None else deltas[0].usage,
        logprobs=tuple(each for delta in deltas for each in delta.logprobs),
        vectors=tuple(each for delta in deltas for each in delta.vectors),
        stop=last.stop,
    )


def hand_over(
    loop: asyncio.AbstractEventLoop, deltas: Iterable[tuple[AnswerStream, Delta]]
) -> None:
    """Give deltas to streams of `loop` from another thread; those of a closed loop are dropped."""

    def put() -> None:
        for stream, delta in deltas:
            stream.put(delta)

    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(put)


def error_of(failure: Failure) -> WorkerError:
    """Return the error that a failure's code stands for."""
    return ERRORS_BY_CODE[failure.code](
        failure.message, param=failure.param, retry_after=failure.retry_after
    )
