"""How the next token is drawn: sampler settings, the threads that draw, grammars, and log probabilities.

Knows neither the schedule nor the cache; llama.cpp's samplers are made by whoever calls.
"""

from gguf_worker.engine.drawing.constraint import Compiler, Constraint, ConstraintFailed
from gguf_worker.engine.drawing.logprobs import token_logprob
from gguf_worker.engine.drawing.pending_grammars import Compiles, PendingGrammars
from gguf_worker.engine.drawing.sampler_pool import Banned, Draws, Row, SamplerPool
from gguf_worker.engine.drawing.sampling import Stage, history_length, is_argmax, stages

__all__ = [
    "Banned",
    "Compiler",
    "Compiles",
    "Constraint",
    "ConstraintFailed",
    "Draws",
    "PendingGrammars",
    "Row",
    "SamplerPool",
    "Stage",
    "history_length",
    "is_argmax",
    "stages",
    "token_logprob",
]
