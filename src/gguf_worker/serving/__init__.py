"""Which models are in memory: one for good, or those of a catalog in turns.

Opens models from `models` in the `engine`, behind `providers`. Knows no front door, no wire format and no
policy of callers.
"""

from gguf_worker.serving.companions import check_companions
from gguf_worker.serving.loaded_model import LoadedModel
from gguf_worker.serving.served_models import ServedModels, served_models
from gguf_worker.serving.storage import opened_store, store_root

__all__ = [
    "LoadedModel",
    "ServedModels",
    "check_companions",
    "opened_store",
    "served_models",
    "store_root",
]
