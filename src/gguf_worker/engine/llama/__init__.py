"""llama.cpp through llama-cpp-python's low-level bindings; nothing else in the worker imports `llama_cpp`.

A context that generates, and one that pools. Knows no request: it computes what it is told.
"""

from gguf_worker.engine.llama.context import Llama, LlamaError
from gguf_worker.engine.llama.pooling_context import PoolingContext

__all__ = ["Llama", "LlamaError", "PoolingContext"]
