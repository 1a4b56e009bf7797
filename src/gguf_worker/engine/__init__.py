"""The inference engine: continuous batching over llama.cpp, in a process of its own.

`parent` is the worker's end, `loop` the process's; between them go `messages`. Knows tokens, texts and
grammars, and nothing of JSON APIs, chats, RunPod or policy.
"""

from gguf_worker.engine.messages import Delta, EngineInfo, EngineSpec
from gguf_worker.engine.parent import EngineClient, Stream

__all__ = ["Delta", "EngineClient", "EngineInfo", "EngineSpec", "Stream"]
