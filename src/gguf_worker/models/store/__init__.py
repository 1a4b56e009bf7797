"""Models kept on a volume: each whole, checked and published in one step, or not there at all.

Several processes and machines may share the volume. Neither the engine nor requests are known here,
and servers are reached only through `source`.
"""

from gguf_worker.models.store.entry import Check, StoreEntry
from gguf_worker.models.store.inspection import Inspection
from gguf_worker.models.store.inventory import Inventory, Leftover, PublishedModel
from gguf_worker.models.store.links import NamedFiles
from gguf_worker.models.store.model_store import Store, StoredModel
from gguf_worker.models.store.part_file import Progress
from gguf_worker.models.store.part_plan import PieceSizes
from gguf_worker.models.store.read_ahead import ReadAhead
from gguf_worker.models.store.verification import Verification

__all__ = [
    "Check",
    "Inspection",
    "Inventory",
    "Leftover",
    "NamedFiles",
    "PieceSizes",
    "Progress",
    "PublishedModel",
    "ReadAhead",
    "Store",
    "StoreEntry",
    "StoredModel",
    "Verification",
]
