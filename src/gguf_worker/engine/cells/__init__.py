"""Which sequences hold which tokens in the KV cache, and what is kept for the next request.

Pure: decides and returns operations, which others carry out. Knows no request and no model.
"""

from gguf_worker.engine.cells.partitioned import PartitionedCells
from gguf_worker.engine.cells.radix import common_length
from gguf_worker.engine.cells.unified import Copy, Hit, Operation, Trim, UnifiedCells

__all__ = ["Copy", "Hit", "Operation", "PartitionedCells", "Trim", "UnifiedCells", "common_length"]
