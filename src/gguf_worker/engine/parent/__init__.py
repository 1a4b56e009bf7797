"""The worker's end of the engine: the client, the child process that it keeps running, and the streams of answers.

Runs in the worker's process and never imports llama.cpp.
"""

from gguf_worker.engine.parent.answer_stream import Stream
from gguf_worker.engine.parent.client import EngineClient

__all__ = ["EngineClient", "Stream"]
