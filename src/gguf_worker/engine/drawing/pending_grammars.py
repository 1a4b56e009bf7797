"""The grammars that are being compiled, and whose they are; a request waits here before it is queued.

Knows neither how a grammar is compiled nor what becomes of its request. Time is an argument.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

from gguf_worker.engine.drawing.constraint import Constraint, GrammarRefused
from gguf_worker.engine.messages import Compiling, Failure
from gguf_worker.generation import Grammar

PATIENCE_SECONDS = 20.0
"""Nothing sane takes that long; a compilation cannot be stopped, but nobody waits for it any more."""


class Compiles(Protocol):
    """What turns a grammar into a constraint; see `constraint.Compiler`."""

    def begin(self) -> None: ...
    def compile(self, grammar: Grammar) -> Future[Constraint]: ...


@dataclass(frozen=True, slots=True)
class _Pending:
    future: Future[Constraint]
    until: float


class PendingGrammars:
    """`send` tells the parent who is at it, before anything is compiled: that may crash."""

    def __init__(self, compiler: Compiles, send: Callable[[Compiling], None]) -> None:
        self._compiler = compiler
        self._send = send
        self._pending: dict[int, _Pending] = {}

    def __len__(self) -> int:
        return len(self._pending)

    def __contains__(self, id: int) -> bool:
        return id in self._pending

    def prepare(self) -> None:
        """There is time now for what the first grammar would have to wait for."""
        self._compiler.begin()

    def add(self, id: int, grammar: Grammar, now: float) -> None:
        """Begin to compile the grammar of request `id`."""
        self._send(Compiling((*self._pending, id)))
        future = self._compiler.compile(grammar)
        self._pending[id] = _Pending(future, now + PATIENCE_SECONDS)

    def drop(self, id: int) -> None:
        """Nobody waits for this one any more."""
        self._pending.pop(id).future.cancel()
        self._send(Compiling(tuple(self._pending)))

    def settled(self, now: float) -> Iterator[tuple[int, Constraint | Failure]]:
        """Whose compilation has ended, and how; each stays until it is dropped."""
        for id, pending in list(self._pending.items()):
            if pending.future.done():
                yield id, _outcome(pending.future)
            elif pending.until <= now:
                yield (
                    id,
                    _refusal(
                        f"The grammar could not be compiled within {PATIENCE_SECONDS:g} seconds. "
                        "Make it smaller or simpler."
                    ),
                )


def _outcome(future: Future[Constraint]) -> Constraint | Failure:
    try:
        return future.result()
    except GrammarRefused as error:
        return _refusal(str(error), "grammar.inner" if error.inner else "grammar")


def _refusal(message: str, param: str = "grammar") -> Failure:
    return Failure("invalid_request", message, param=param)
