"""Answers from the model in this worker.

Only this provider knows the engine, and only here the engine meets chat templates and parsers. Wire
formats, policy and the loading of the model are unknown here.
"""

from gguf_worker.providers.local.provider import LocalProvider

__all__ = ["LocalProvider"]
