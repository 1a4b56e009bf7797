"""OpenAI's dialect: chat, completions, responses and embeddings, with a reader and a writer each.

The package depends on no model and no provider.
"""

from gguf_worker.api.openai.chat_reader import CHAT_MODELS, read_as_chat, read_chat
from gguf_worker.api.openai.chat_writer import chat_writer
from gguf_worker.api.openai.completions_reader import COMPLETION_MODELS, read_completion
from gguf_worker.api.openai.completions_writer import completion_writer
from gguf_worker.api.openai.embeddings_reader import (
    EmbeddingsBody,
    EmbeddingsCall,
    read_embeddings,
)
from gguf_worker.api.openai.embeddings_writer import write_embeddings
from gguf_worker.api.openai.responses_reader import (
    RESPONSES_FOREIGN,
    RESPONSES_WORDS,
    ResponsesBody,
    read_responses,
)
from gguf_worker.api.openai.responses_writer import RESPONSES_ERRORS, responses_writer

__all__ = [
    "CHAT_MODELS",
    "COMPLETION_MODELS",
    "RESPONSES_ERRORS",
    "RESPONSES_FOREIGN",
    "RESPONSES_WORDS",
    "EmbeddingsBody",
    "EmbeddingsCall",
    "ResponsesBody",
    "chat_writer",
    "completion_writer",
    "read_as_chat",
    "read_chat",
    "read_completion",
    "read_embeddings",
    "read_responses",
    "responses_writer",
    "write_embeddings",
]
