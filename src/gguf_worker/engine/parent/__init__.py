"""The worker's end of the engine: a client, the child process that it keeps running, and answers as
streams.

Runs in the worker's process and never imports llama.cpp. Knows the messages, and nothing of how the
process computes, of model files, chats or front doors.
"""

from gguf_worker.engine.parent.answer_stream import AnswerStream
from gguf_worker.engine.parent.client import EngineClient

__all__ = ["AnswerStream", "EngineClient"]
