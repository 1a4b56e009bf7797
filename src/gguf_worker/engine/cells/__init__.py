"""Bookkeeping of the KV cache: which sequence ids hold which tokens, and what is kept for reuse.

Pure: it decides, and returns operations for others to carry out on the cache. Knows no request, no
model and no clock.
"""

from gguf_worker.engine.cells.partitioned import PartitionedCells
from gguf_worker.engine.cells.radix import common_length
from gguf_worker.engine.cells.unified import Clear, Copy, Hit, Operation, Trim, UnifiedCells

__all__ = [
    "Clear",
    "Copy",
    "Hit",
    "Operation",
    "PartitionedCells",
    "Trim",
    "UnifiedCells",
    "common_length",
]
