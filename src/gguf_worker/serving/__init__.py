"""Models in memory: one permanently, or those of a catalog, swapped on demand.

It fetches models with `models`, opens each in an `engine` of its own, and gives them out as
`providers`. It depends on no front door, no wire format and no policy for callers.
"""

from gguf_worker.serving.companions import check_companions
from gguf_worker.serving.download_log import DownloadLog
from gguf_worker.serving.offload import can_offload
from gguf_worker.serving.served_models import served_models
from gguf_worker.serving.storage import baked_root, opened_store, store_root

__all__ = [
    "DownloadLog",
    "baked_root",
    "can_offload",
    "check_companions",
    "opened_store",
    "served_models",
    "store_root",
]
