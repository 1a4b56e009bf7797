"""PendingReplies to the engine that are no requests for text, until they are answered: nothing is tried again.

Any thread may answer; each answer is handed over to the event loop of who asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading

from gguf_worker.engine.messages import Reply
from gguf_worker.engine.parent.answer_stream import error_of
from gguf_worker.errors import EngineUnavailable, WorkerError


class PendingReplies:
    """Those that are open. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[int, asyncio.Future[Reply]] = {}

    def add(self, id: int) -> asyncio.Future[Reply]:
        """What will be the answer to question `id`; belongs to the running loop."""
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        with self._lock:
            self._open[id] = answer
        return answer

    def drop(self, id: int) -> None:
        """Nobody waits for the answer any more."""
        with self._lock:
            self._open.pop(id, None)

    def answer(self, reply: Reply) -> None:
        """The engine has answered; a failure becomes the error of its code."""
        with self._lock:
            answer = self._open.pop(reply.id, None)
        if answer is not None:
            _settle(answer, reply if reply.failure is None else error_of(reply.failure))

    def fail(self, message: str) -> None:
        """There is nobody left who would answer those that are open."""
        with self._lock:
            answers = list(self._open.values())
            self._open.clear()
        for answer in answers:
            _settle(answer, EngineUnavailable(message))


def _settle(answer: asyncio.Future[Reply], outcome: Reply | WorkerError) -> None:
    def settle() -> None:
        if answer.done():  # cancelled meanwhile
            return
        if isinstance(outcome, WorkerError):
            answer.set_exception(outcome)
        else:
            answer.set_result(outcome)

    with contextlib.suppress(RuntimeError):  # a closed loop has nobody left to tell
        answer.get_loop().call_soon_threadsafe(settle)
