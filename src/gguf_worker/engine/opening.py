"""The scheduler that fits an opened model: its kind of memory decides how prefixes are shared.

Knows the values that llama.cpp settled on, not the library.
"""

from __future__ import annotations

from gguf_worker.engine.kv import KvCache
from gguf_worker.engine.messages import EngineInfo, EngineSpec
from gguf_worker.engine.scheduler import Alternate, Mixed, Scheduler
from gguf_worker.engine.streams import KvStreams

_KEPT = 2
"""One cell in so many may be kept for reuse: attention passes over each of them in every step."""


def scheduler_for(spec: EngineSpec, info: EngineInfo) -> Scheduler:
    """A scheduler over an empty cache of `info`'s size."""
    cache: KvCache | KvStreams
    if info.unified:
        cache = KvCache(
            info.kv_cells,
            info.sequences,
            info.idle_sequences,
            rollback=info.rollback,
            keep=info.kv_cells // _KEPT,
        )
    else:
        assert info.rollback
        cache = KvStreams(info.kv_cells, info.sequences, info.idle_sequences)
    chunk = spec.prefill_chunk or info.batch_size
    return Scheduler(
        cache,
        slots=info.sequences,
        context=info.context,
        budget=info.batch_size,
        max_waiting=spec.max_queue,
        mixing=Alternate(chunk) if spec.mixing == "alternate" else Mixed(chunk),
    )
