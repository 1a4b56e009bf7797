"""Grammars: compiled beside the loop, and the constraints that hold answers to them.

The only package that imports llguidance, and only inside functions. Knows no logits, no sampler and
no schedule.
"""

from gguf_worker.engine.drawing.grammars.compiler import Compiler
from gguf_worker.engine.drawing.grammars.constraint import (
    Constraint,
    ConstraintFailed,
    GrammarTooCostly,
)
from gguf_worker.engine.drawing.grammars.pending_grammars import GrammarCompiler, PendingGrammars

__all__ = [
    "Compiler",
    "Constraint",
    "ConstraintFailed",
    "GrammarCompiler",
    "GrammarTooCostly",
    "PendingGrammars",
]
