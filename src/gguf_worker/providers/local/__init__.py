"""Answers from the model in this worker: the one provider that knows the engine.

Knows neither wire formats nor policy, nor how the model came into memory.
"""

from gguf_worker.providers.local.provider import LocalProvider

__all__ = ["LocalProvider"]
