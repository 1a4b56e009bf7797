"""The API: one pipeline behind RunPod jobs and HTTP, in OpenAI's, Anthropic's and a plain dialect.

A request's body is read, a provider is asked, and its answer is written as replies. Tokens and chat
templates are the provider's business. `routes` is the one registry of routes, with a reader and a
writer each. The HTTP front is `gguf_worker.api.http`, imported only where it is served.
"""

from gguf_worker.api.gateway import Gateway
from gguf_worker.api.job import answer_job

__all__ = ["Gateway", "answer_job"]
