"""The engine process's loop: messages in, steps planned and computed, deltas out.

The scheduler and all that it stands on are pure: no clock, thread or pointer. llama.cpp is behind a
protocol (`backend.Backend`), and so is the parent.
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
