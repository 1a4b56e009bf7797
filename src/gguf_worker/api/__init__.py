"""The API: one pipeline behind RunPod jobs and HTTP, in OpenAI's, Anthropic's and a plain dialect.

Bodies come in and replies go out; between them a provider is asked, and nothing here knows a token
or a template. `routes` is the one registry of routes, with a reader and a writer each. The HTTP
front is `gguf_worker.api.http`, imported only where it is served.
"""

from gguf_worker.api.gateway import Gateway
from gguf_worker.api.job import answer_job

__all__ = ["Gateway", "answer_job"]
