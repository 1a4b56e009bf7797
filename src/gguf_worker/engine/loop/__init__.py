"""The engine process's loop: messages in, steps planned and computed, news out.

The scheduler and all that it stands on are pure: no clock, thread or pointer. llama.cpp is behind a protocol.
"""

from gguf_worker.engine.loop.channel import Channel
from gguf_worker.engine.loop.factory import embedder_for, scheduler_for
from gguf_worker.engine.loop.scheduler import Chunk
from gguf_worker.engine.loop.sequence import Sequence
from gguf_worker.engine.loop.server import BEAT_SECONDS, Server

__all__ = [
    "BEAT_SECONDS",
    "Channel",
    "Chunk",
    "Sequence",
    "Server",
    "embedder_for",
    "scheduler_for",
]
