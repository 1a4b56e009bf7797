"""Texts to vectors or scores, in batches between the steps of what is generated.

Pure: the model is behind a protocol. Knows nothing of generation.
"""

from gguf_worker.engine.texts.embedder import Embedder, Pooler, Span, Vectors, unable

__all__ = ["Embedder", "Pooler", "Span", "Vectors", "unable"]
