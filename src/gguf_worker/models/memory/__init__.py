"""The sizes of an engine for which a machine has the memory, computed from a model's header.

Pure sums over a header and a machine; nothing is loaded or measured.
"""

from gguf_worker.models.memory.fit import (
    GPU_SEQUENCES,
    QUEUED_PER_SEQUENCE,
    Fit,
    fit,
    machine_with_less,
)
from gguf_worker.models.memory.fit_shared import fit_alone, fit_among, machine_beside
from gguf_worker.models.memory.sizes import Choice

__all__ = [
    "GPU_SEQUENCES",
    "QUEUED_PER_SEQUENCE",
    "Choice",
    "Fit",
    "fit",
    "fit_alone",
    "fit_among",
    "machine_beside",
    "machine_with_less",
]
