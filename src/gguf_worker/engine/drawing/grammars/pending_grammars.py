"""The grammars that are being compiled; their requests wait for them before they are queued.

Knows neither how a grammar is compiled nor what happens to its request. Time is an argument, in
seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

from gguf_worker.engine.drawing.grammars.constraint import Constraint
from gguf_worker.engine.drawing.grammars.translation import GrammarRefused
from gguf_worker.engine.messages import Compiling, Failure
from gguf_worker.generation import Grammar

PATIENCE_SECONDS = 20.0
"""Longest time that a request waits for its grammar; no sane one takes that long. The compilation
itself cannot be stopped."""
_TOO_SLOW = (
    f"The grammar could not be compiled within {PATIENCE_SECONDS:g} seconds. "
    "Make it smaller or simpler."
)


class GrammarCompiler(Protocol):
    """Turns grammars into constraints; see `compiler.Compiler`."""

    def begin(self) -> None: ...
    def compile(self, grammar: Grammar) -> Future[Constraint]: ...


@dataclass(frozen=True, slots=True)
class _PendingGrammar:
    future: Future[Constraint]
    until: float


class PendingGrammars:
    """The grammars under compilation, by request id.

    `send` sends a message to the parent, which is informed before a compilation, since that may
    crash.
    """

    def __init__(self, compiler: GrammarCompiler, send: Callable[[Compiling], None]) -> None:
        self._compiler = compiler
        self._send = send
        self._pending: dict[int, _PendingGrammar] = {}

    def __len__(self) -> int:
        return len(self._pending)

    def __contains__(self, id: int) -> bool:
        return id in self._pending

    def prepare(self) -> None:
        """Prepare the compiler now, so that the first grammar need not wait for it."""
        self._compiler.begin()

    def add(self, id: int, grammar: Grammar, now: float) -> None:
        """Begin to compile the grammar of request `id`; `now` is the time."""
        self._send(Compiling((*self._pending, id)))
        future = self._compiler.compile(grammar)
        self._pending[id] = _PendingGrammar(future, now + PATIENCE_SECONDS)

    def drop(self, id: int) -> None:
        """Forget a request, whose grammar is no longer awaited."""
        self._pending.pop(id).future.cancel()
        self._send(Compiling(tuple(self._pending)))

    def settled(self, now: float) -> Iterator[tuple[int, Constraint | Failure]]:
        """Yield the requests whose compilation has ended or takes too long; each stays until it is
        dropped."""
        for id, pending in list(self._pending.items()):
            if pending.future.done():
                yield id, _outcome(pending.future)
            elif pending.until <= now:
                yield id, _refusal(_TOO_SLOW)


def _outcome(future: Future[Constraint]) -> Constraint | Failure:
    try:
        return future.result()
    except GrammarRefused as error:
        return _refusal(str(error), "grammar.inner" if error.inner else "grammar")


def _refusal(message: str, param: str = "grammar") -> Failure:
    return Failure("invalid_request", message, param=param)
