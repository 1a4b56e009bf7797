"""The API gateway: one pipeline behind RunPod jobs and HTTP, speaking OpenAI's API and a plain one.

The HTTP front is `gguf_worker.api.http`, imported only where it is served.
"""

from gguf_worker.api.gateway import Gateway
from gguf_worker.api.job import answer_job
from gguf_worker.providers import ModelCard

__all__ = ["Gateway", "ModelCard", "answer_job"]
