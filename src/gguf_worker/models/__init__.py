"""Model management: from what MODEL says to a checked file, its header, and sizes that fit.

Nothing here runs a model, and nothing here knows of requests.
"""

from gguf_worker.models.dialect import Dialect, Rendered
from gguf_worker.models.download import Progress
from gguf_worker.models.fit import Choice, Fit, fit
from gguf_worker.models.gguf import Header, read_header
from gguf_worker.models.hub import Hub
from gguf_worker.models.inventory import Inventory, Leftover, PublishedModel
from gguf_worker.models.purpose import Purpose, purpose_of
from gguf_worker.models.reference import LocalFile, WebFile, parse_reference
from gguf_worker.models.store import Store, StoredModel

__all__ = [
    "Choice",
    "Dialect",
    "Fit",
    "Header",
    "Hub",
    "Inventory",
    "Leftover",
    "LocalFile",
    "Progress",
    "PublishedModel",
    "Purpose",
    "Rendered",
    "Store",
    "StoredModel",
    "WebFile",
    "fit",
    "parse_reference",
    "purpose_of",
    "read_header",
]
