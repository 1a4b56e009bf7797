"""The engine process's loop: messages in, steps planned and computed, deltas out.

The scheduler and what it is built on are pure: no clock, thread or pointer. llama.cpp and the
parent are behind protocols (`backend.Backend`, `backend.MessageChannel`).
"""

from gguf_worker.engine.loop.channel import SocketChannel
from gguf_worker.engine.loop.factory import embedder_for, scheduler_for
from gguf_worker.engine.loop.scheduler import Chunk
from gguf_worker.engine.loop.sequence import Sequence
from gguf_worker.engine.loop.server import Server
from gguf_worker.engine.loop.step_reporter import BEAT_SECONDS

__all__ = [
    "BEAT_SECONDS",
    "Chunk",
    "Sequence",
    "Server",
    "SocketChannel",
    "embedder_for",
    "scheduler_for",
]
