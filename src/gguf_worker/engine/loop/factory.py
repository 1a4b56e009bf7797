"""Makes the scheduler and the embedder for an opened model; its kind of memory decides how prefixes
are shared.

Knows the values that llama.cpp settled on, not the library.
"""

from __future__ import annotations

from gguf_worker.engine.cells import PartitionedCells, UnifiedCells
from gguf_worker.engine.loop.mixing import Alternate, Mixed
from gguf_worker.engine.loop.scheduler import Scheduler
from gguf_worker.engine.messages import EngineInfo, EngineSpec
from gguf_worker.engine.texts import Embedder, Pooler, TokenizerPool

_KEPT = 2
"""Divisor of the cells that idle requests may keep: attention passes over each in every step."""


def scheduler_for(spec: EngineSpec, info: EngineInfo) -> Scheduler:
    """Return a scheduler over an empty cache of `info`'s size, or of no cells if the model does not
    generate."""
    cache: UnifiedCells | PartitionedCells
    if not info.generates:
        cache = UnifiedCells(0, 1, 0, rollback=True)
        return Scheduler(cache, slots=1, context=0, budget=1, max_waiting=0)
    if info.unified:
        cache = UnifiedCells(
            info.kv_cells,
            info.sequences,
            info.idle_sequences,
            rollback=info.rollback,
            keep=info.kv_cells // _KEPT,
        )
    else:
        assert info.rollback
        cache = PartitionedCells(info.kv_cells, info.sequences, info.idle_sequences)
    chunk = spec.prefill_chunk or info.batch_size
    return Scheduler(
        cache,
        slots=info.sequences,
        context=info.context,
        budget=info.batch_size,
        max_waiting=spec.max_queue,
        outputs=info.sequences + info.idle_sequences,
        mixing=Alternate(chunk) if spec.mixing == "alternate" else Mixed(chunk),
    )


def embedder_for(
    spec: EngineSpec, info: EngineInfo, pooler: Pooler, tokenizers: TokenizerPool
) -> Embedder:
    """Return an embedder that takes as many open requests as may run and wait together."""
    most = spec.sequences + spec.max_queue
    return Embedder(pooler, vocabulary=info.vocabulary, most=most, tokenizers=tokenizers)
