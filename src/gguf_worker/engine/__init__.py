"""The inference engine: continuous batching over llama.cpp, in a process of its own.

`parent` is the worker's end of a socket, and `loop` the process's; `messages` go between them. The
loop is built on `cells` (the KV cache's bookkeeping), `drawing` (of tokens), `texts` (embeddings)
and `llama` (the library). Knows tokens, texts and grammars, and nothing of JSON APIs, chats, RunPod
or policy.
"""

from gguf_worker.engine.gpu_support import ask_for_gpus, built_for_gpus
from gguf_worker.engine.messages import Delta, EngineInfo, EngineRequest, EngineSpec, GpuSupport
from gguf_worker.engine.parent import AnswerStream, EngineClient

__all__ = [
    "AnswerStream",
    "Delta",
    "EngineClient",
    "EngineInfo",
    "EngineRequest",
    "EngineSpec",
    "GpuSupport",
    "ask_for_gpus",
    "built_for_gpus",
]
