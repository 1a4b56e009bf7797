"""The inference engine: continuous batching over llama.cpp, in a process of its own."""

from gguf_worker.engine.client import EngineClient
from gguf_worker.engine.messages import (
    Delta,
    EngineInfo,
    EngineSpec,
    Grammar,
    Sampling,
    TokenLogprob,
)
from gguf_worker.engine.stream import Stream

__all__ = [
    "Delta",
    "EngineClient",
    "EngineInfo",
    "EngineSpec",
    "Grammar",
    "Sampling",
    "Stream",
    "TokenLogprob",
]
