"""Drawing of tokens: sampler settings, the threads that draw, grammars, and log probabilities.

Knows neither the schedule nor the cache; llama.cpp's samplers are made by the caller.
"""

from gguf_worker.engine.drawing.grammars import (
    Compiler,
    Constraint,
    ConstraintFailed,
    GrammarCompiler,
    GrammarTooCostly,
    PendingGrammars,
)
from gguf_worker.engine.drawing.logprobs import token_logprob
from gguf_worker.engine.drawing.lost_rows import lost_rows
from gguf_worker.engine.drawing.sampler_pool import Banned, DrawRow, SamplerPool, TokenSampler
from gguf_worker.engine.drawing.sampling import Stage, history_length, is_argmax, stages
from gguf_worker.engine.drawing.token_bans import TokenBans

__all__ = [
    "Banned",
    "Compiler",
    "Constraint",
    "ConstraintFailed",
    "DrawRow",
    "GrammarCompiler",
    "GrammarTooCostly",
    "PendingGrammars",
    "SamplerPool",
    "Stage",
    "TokenBans",
    "TokenSampler",
    "history_length",
    "is_argmax",
    "lost_rows",
    "stages",
    "token_logprob",
]
