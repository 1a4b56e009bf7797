"""Answers from the model in this worker.

This is the one provider that knows the engine, and the one room that joins it to the chat's texts.
It knows neither wire formats nor policy, nor how the model came into memory.
"""

from gguf_worker.providers.local.provider import LocalProvider

__all__ = ["LocalProvider"]
