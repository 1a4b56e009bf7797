"""Threads that tokenise long texts beside the loop.

Work is a generator: it reads a piece of its text at each turn, and returns the result. A tokeniser
releases Python's lock, and can crash.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any, TypeVar

from gguf_worker.engine.stacks import start_with_stack

T = TypeVar("T")
Work = Generator[None, None, T]

SHORT = 4096
"""Most characters of a text that is tokenised where it is: that takes a millisecond at most."""
LONG = 256 * 1024
"""Characters of a text from which on it may take seconds."""
_THREADS = 2
_STACK_BYTES = 8 << 20


def finished(work: Work[T]) -> T:
    """Do all turns of `work` now, and return the result."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: T = end.value
            return result


@dataclass(slots=True, eq=False)
class _Job:
    ids: set[int]
    """The requests that wait for it."""
    work: Work[Any]
    long: bool
    number: int
    turns: int = 0
    future: Future[Any] = field(default_factory=Future)

    def turn(self) -> None:
        """Do the work's next turn."""
        self.turns += 1
        with contextlib.suppress(InvalidStateError):  # cancelled meanwhile
            try:
                next(self.work)
            except StopIteration as end:
                self.future.set_result(end.value)
            except BaseException as error:
                self.future.set_exception(error)


class TokenizerPool:
    """Runs work on `threads`, which are started when the first is needed.

    The work that has had the fewest turns is next, so that no text waits until a longer one is
    read, and one thread does no work for long texts. `announce` is told, before a turn begins, the
    ids of exactly those requests whose texts are being read; calls never overlap.
    """

    def __init__(
        self, announce: Callable[[tuple[int, ...]], None], threads: int = _THREADS
    ) -> None:
        self._announce = announce
        self._threads = threads
        self._begun = 0
        self._count = 0
        self._changed = threading.Condition()  # guards everything below
        self._waiting: list[_Job] = []
        self._running: list[_Job] = []
        self._here: int | None = None
        self._announced: tuple[int, ...] = ()
        self._closing = False

    def begin(self, id: int, work: Work[T], *, characters: int) -> Future[T]:
        """Have `work` done for request `id`; `characters` is the length of its text."""
        with self._changed:
            job = _Job({id}, work, characters >= LONG, self._count)
            self._count += 1
            self._waiting.append(job)
            self._changed.notify()
            if self._begun < self._threads:
                thread = threading.Thread(target=self._run, name="tokenizer", daemon=True)
                with contextlib.suppress(RuntimeError):  # no memory now: the next text tries again
                    start_with_stack(thread, _STACK_BYTES)
                    self._begun += 1
        return job.future

    def join(self, future: Future[Any], id: int) -> None:
        """Have request `id` wait for the result too."""
        with self._changed:
            for job in self._jobs_of(future):
                job.ids.add(id)
            self._tell()

    def leave(self, future: Future[Any], id: int) -> None:
        """Let request `id` wait no longer. Work that none waits for is not begun, or ends with its
        turn."""
        with self._changed:
            for job in self._jobs_of(future):
                job.ids.discard(id)
                if not job.ids:
                    future.cancel()
                    self._waiting = [each for each in self._waiting if each is not job]
            self._tell()

    @contextlib.contextmanager
    def reading(self, id: int) -> Iterator[None]:
        """Announce that the caller itself reads a text of request `id` meanwhile."""
        with self._changed:
            self._here = id
            self._tell()
        try:
            yield
        finally:
            with self._changed:
                self._here = None
                self._tell()

    def close(self) -> None:
        """Have the threads end after their turns."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def _jobs_of(self, future: Future[Any]) -> list[_Job]:
        return [job for job in [*self._waiting, *self._running] if job.future is future]

    def _run(self) -> None:
        while (job := self._take()) is not None:
            job.turn()
            self._put_back(job)

    def _take(self) -> _Job | None:
        """Wait for a job that may have a turn; None: the thread is to end."""
        with self._changed:
            while not self._closing:
                job = self._choice()
                if job is not None:
                    self._waiting.remove(job)
                    self._running.append(job)
                self._tell()
                if job is not None:
                    return job
                self._changed.wait()
            return None

    def _put_back(self, job: _Job) -> None:
        """Have a job wait for its next turn, unless it is done."""
        with self._changed:
            self._running.remove(job)
            if not job.future.done():
                self._waiting.append(job)
            self._changed.notify()

    def _choice(self) -> _Job | None:
        reading_long = sum(job.long for job in self._running)
        may_be_long = reading_long < max(1, self._threads - 1)
        jobs = [job for job in self._waiting if may_be_long or not job.long]
        return min(jobs, key=lambda job: (job.turns, job.number), default=None)

    def _tell(self) -> None:
        ids = {id for job in self._running for id in job.ids}
        if self._here is not None:
            ids.add(self._here)
        told = tuple(sorted(ids))
        if told != self._announced:
            self._announced = told
            self._announce(told)
