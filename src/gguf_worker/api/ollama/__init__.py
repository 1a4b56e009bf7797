"""Ollama's dialect: chats, prompts and embeddings, the lists of models, and errors in its shape.

A chat's body is rewritten as a chat completion's. The package depends on no model and no provider;
models are neither fetched nor removed by a request.
"""

from gguf_worker.api.ollama.answer_writer import (
    CHAT_LINES,
    GENERATE_LINES,
    OLLAMA_ERRORS,
    chat_lines_writer,
    generate_lines_writer,
)
from gguf_worker.api.ollama.chat_reader import OllamaChatBody, read_ollama_chat
from gguf_worker.api.ollama.embedding import (
    OllamaEmbedBody,
    OllamaEmbeddingBody,
    read_embed,
    read_one_embedding,
    write_embed,
    write_one_embedding,
)
from gguf_worker.api.ollama.generate_reader import OllamaGenerateBody, read_ollama_generate
from gguf_worker.api.ollama.model_facts import (
    ModelNameBody,
    loaded_models,
    read_model_name,
    version_object,
    write_model,
    write_pulled,
    write_tags,
)
from gguf_worker.api.ollama.shared_fields import OLLAMA_WORDS

__all__ = [
    "CHAT_LINES",
    "GENERATE_LINES",
    "OLLAMA_ERRORS",
    "OLLAMA_WORDS",
    "ModelNameBody",
    "OllamaChatBody",
    "OllamaEmbedBody",
    "OllamaEmbeddingBody",
    "OllamaGenerateBody",
    "chat_lines_writer",
    "generate_lines_writer",
    "loaded_models",
    "read_embed",
    "read_model_name",
    "read_ollama_chat",
    "read_ollama_generate",
    "read_one_embedding",
    "version_object",
    "write_embed",
    "write_model",
    "write_one_embedding",
    "write_pulled",
    "write_tags",
]
