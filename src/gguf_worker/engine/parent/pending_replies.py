"""Questions to the engine (the tokens of a text, the text of tokens) that wait for their reply.

Unlike a request for an answer, a question is not sent again when the engine is lost. Any thread may
answer; each reply is handed over to the event loop of its caller.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from itertools import chain

import msgspec

from gguf_worker.engine.messages import Reply
from gguf_worker.engine.parent.answer_stream import error_of
from gguf_worker.errors import EngineUnavailable, WorkerError


class PendingReplies:
    """The futures of the replies that have not come yet, by question id. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pending: dict[int, tuple[asyncio.Future[Reply], int]] = {}
        self._parts: dict[int, list[Reply]] = {}

    def __len__(self) -> int:
        return len(self._pending)

    @property
    def bytes(self) -> int:
        """Bytes of the questions that have no reply yet."""
        with self._lock:
            return sum(size for _, size in self._pending.values())

    def add(self, id: int, size: int) -> asyncio.Future[Reply]:
        """Return a future for the reply to question `id` of `size` bytes; it belongs to the running
        loop."""
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        with self._lock:
            self._pending[id] = future, size
        return future

    def drop(self, id: int) -> bool:
        """Forget a question, whose reply is no longer awaited; returns whether none had come."""
        with self._lock:
            self._parts.pop(id, None)
            return self._pending.pop(id, None) is not None

    def answer(self, reply: Reply) -> None:
        """Hand a reply to its caller after its last part; a failure becomes the error of its
        code."""
        with self._lock:
            if not reply.last:
                if reply.id in self._pending:
                    self._parts.setdefault(reply.id, []).append(reply)
                return
            future, _ = self._pending.pop(reply.id, (None, 0))
            parts = self._parts.pop(reply.id, None)
        if parts is not None:
            parts.append(reply)
            tokens = list(chain.from_iterable(part.tokens for part in parts))
            text = "".join(part.text for part in parts)
            pieces = list(chain.from_iterable(part.pieces for part in parts))
            reply = msgspec.structs.replace(reply, tokens=tokens, text=text, pieces=pieces)
        if future is not None:
            _settle(future, reply if reply.failure is None else error_of(reply.failure))

    def fail(self, message: str) -> None:
        """Fail all questions with EngineUnavailable: no reply will come."""
        with self._lock:
            futures = [future for future, _ in self._pending.values()]
            self._pending.clear()
            self._parts.clear()
        for future in futures:
            _settle(future, EngineUnavailable(message))


def _settle(future: asyncio.Future[Reply], outcome: Reply | WorkerError) -> None:
    def settle() -> None:
        if future.done():  # cancelled meanwhile
            return
        if isinstance(outcome, WorkerError):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    with contextlib.suppress(RuntimeError):  # a closed loop has no reader left
        future.get_loop().call_soon_threadsafe(settle)
