"""Answers from the model in this worker.

Only this provider knows the engine, and only here the engine meets chat templates and parsers. The
package depends on no wire format or policy, and not on how the model was loaded.
"""

from gguf_worker.providers.local.provider import LocalProvider

__all__ = ["LocalProvider"]
