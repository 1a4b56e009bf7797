"""Embeddings and scores of texts, in batches between the steps of generation.

Pure: no clock, thread or pointer, and the model is behind a protocol. Knows nothing of generation.
"""

from gguf_worker.engine.texts.embedder import Embedder
from gguf_worker.engine.texts.spans import Pooler, Span, Vectors
from gguf_worker.engine.texts.text_tokens import unable

__all__ = ["Embedder", "Pooler", "Span", "Vectors", "unable"]
