"""What fits: the sizes of an engine that a machine can carry for a model, computed from its header.

Pure sums over a header and a machine; nothing is loaded, measured or asked.
"""

from gguf_worker.models.memory.fit import (
    GPU_SEQUENCES,
    QUEUED_PER_SEQUENCE,
    Choice,
    Fit,
    fit,
)
from gguf_worker.models.memory.fit_shared import beside, fit_alone, fit_among

__all__ = [
    "GPU_SEQUENCES",
    "QUEUED_PER_SEQUENCE",
    "Choice",
    "Fit",
    "beside",
    "fit",
    "fit_alone",
    "fit_among",
]
