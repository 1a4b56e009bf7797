"""Embeddings and scores of texts, in batches between the steps of generation.

Pure but for the threads of `tokenizer_pool`: no clock or pointer, and the model is behind a
protocol. Knows nothing of generation.
"""

from gguf_worker.engine.texts.embedder import Embedder
from gguf_worker.engine.texts.spans import Pooler, Span, Vectors
from gguf_worker.engine.texts.text_tokens import unable
from gguf_worker.engine.texts.tokenizer_pool import SHORT, TokenizerPool, finished

__all__ = [
    "SHORT",
    "Embedder",
    "Pooler",
    "Span",
    "TokenizerPool",
    "Vectors",
    "finished",
    "unable",
]
