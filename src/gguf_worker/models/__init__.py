"""Model management: from what MODEL says to a checked file, its header, and sizes that fit.

Nothing here runs a model, and nothing here knows of requests.
"""

from gguf_worker.models.adapter import Adapter, with_weights_of
from gguf_worker.models.companions import adapters_for, check_companions, with_template
from gguf_worker.models.dialect import Dialect, Rendered
from gguf_worker.models.download import Progress
from gguf_worker.models.fit import Choice, Fit, fit
from gguf_worker.models.gguf import Header, read_header
from gguf_worker.models.hub import Hub
from gguf_worker.models.inspection import Inspection
from gguf_worker.models.inventory import Inventory, Leftover, PublishedModel
from gguf_worker.models.purpose import Purpose, purpose_of
from gguf_worker.models.read_ahead import ReadAhead
from gguf_worker.models.reference import (
    HubFile,
    HubQuant,
    LocalFile,
    Reference,
    WebFile,
    parse_reference,
)
from gguf_worker.models.selection import choose, label_of
from gguf_worker.models.sharing import beside, fit_alone, fit_among
from gguf_worker.models.shelf import Check
from gguf_worker.models.store import Store, StoredModel
from gguf_worker.models.verification import Verification
from gguf_worker.models.web import FOLDER as WEB_FOLDER

__all__ = [
    "WEB_FOLDER",
    "Adapter",
    "Check",
    "Choice",
    "Dialect",
    "Fit",
    "Header",
    "Hub",
    "HubFile",
    "HubQuant",
    "Inspection",
    "Inventory",
    "Leftover",
    "LocalFile",
    "Progress",
    "PublishedModel",
    "Purpose",
    "ReadAhead",
    "Reference",
    "Rendered",
    "Store",
    "StoredModel",
    "Verification",
    "WebFile",
    "adapters_for",
    "beside",
    "check_companions",
    "choose",
    "fit",
    "fit_alone",
    "fit_among",
    "label_of",
    "parse_reference",
    "purpose_of",
    "read_header",
    "with_template",
    "with_weights_of",
]
