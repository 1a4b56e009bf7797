"""llama.cpp through llama-cpp-python's low-level bindings; nothing else in the worker imports
`llama_cpp`.

Opens a model, with a context for generation and one for embeddings or scores, and computes batches.
Knows no request and no schedule.
"""

from gguf_worker.engine.llama.backends import load_backends
from gguf_worker.engine.llama.context import Llama
from gguf_worker.engine.llama.native_log import LlamaError, NativeLog
from gguf_worker.engine.llama.pooling_context import PoolingContext

__all__ = ["Llama", "LlamaError", "NativeLog", "PoolingContext", "load_backends"]
