"""The grammars that are being compiled, and how long requests wait for them."""

from __future__ import annotations

from typing import Any

from gguf_worker.engine.drawing.grammars.pending_grammars import PATIENCE_SECONDS, PendingGrammars
from gguf_worker.engine.messages import Compiling, Failure
from gguf_worker.generation import Grammar
from tests.fake_backend import FakeCompiler


def made(**options: Any) -> tuple[PendingGrammars, FakeCompiler, list[Compiling]]:
    sent: list[Compiling] = []
    compiler = FakeCompiler(**options)
    return PendingGrammars(compiler, sent.append), compiler, sent


def test_a_compiled_grammar_is_settled_until_it_is_dropped() -> None:
    grammars, compiler, _ = made(held=True)
    grammars.add(1, Grammar("regex", "a"), 0.0)
    assert list(grammars.settled(0.0)) == []
    compiler.release()
    outcome: object = compiler.constraints[0]
    assert list(grammars.settled(0.0)) == list(grammars.settled(0.0)) == [(1, outcome)]
    grammars.drop(1)
    assert (list(grammars.settled(0.0)), len(grammars), 1 in grammars) == ([], 0, False)


def test_a_refusal_names_the_reason_and_the_parameter() -> None:
    grammars, _, _ = made()
    grammars.add(1, Grammar("regex", "!no lookahead"), 0.0)
    refusal = Failure("invalid_request", "no lookahead", param="grammar")
    assert list(grammars.settled(0.0)) == [(1, refusal)]


def test_no_request_waits_for_a_compilation_for_ever() -> None:
    grammars, compiler, _ = made(held=True)
    grammars.add(1, Grammar("regex", "a"), 5.0)
    assert list(grammars.settled(4.9 + PATIENCE_SECONDS)) == []
    ((id, outcome),) = grammars.settled(5.0 + PATIENCE_SECONDS)
    assert id == 1
    assert isinstance(outcome, Failure)
    grammars.drop(1)
    compiler.release()
    assert compiler.constraints == []


def test_the_parent_is_informed_before_a_grammar_is_given_to_the_compiler() -> None:
    sent: list[Compiling] = []

    class Crashes(FakeCompiler):
        def compile(self, grammar: Grammar) -> Any:
            assert sent == [Compiling((1,))]
            return super().compile(grammar)

    grammars = PendingGrammars(Crashes(), sent.append)
    grammars.add(1, Grammar("regex", "a"), 0.0)
    grammars.drop(1)
    assert sent == [Compiling((1,)), Compiling(())]
