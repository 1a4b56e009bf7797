"""The sources of models: the Hugging Face Hub, https addresses, and the Hub's caches.

A source finds the file that a reference means, and yields its bytes; where they are kept is not
known here. The interface of a source is in `protocol`, and the table of all sources in `registry`.
"""

from gguf_worker.models.source.hub import Hub
from gguf_worker.models.source.hub_cache import CachedModels
from gguf_worker.models.source.protocol import AnySource, FixedPlace, SourceAccess
from gguf_worker.models.source.reference import (
    Reference,
    is_commit,
    is_plain_path,
    is_repository,
    without_secrets,
)
from gguf_worker.models.source.registry import is_path, open_sources, parse_reference
from gguf_worker.models.source.remote import RemoteFile
from gguf_worker.models.source.selection import label_of
from gguf_worker.models.source.transfer import Ranges

__all__ = [
    "AnySource",
    "CachedModels",
    "FixedPlace",
    "Hub",
    "Ranges",
    "Reference",
    "RemoteFile",
    "SourceAccess",
    "is_commit",
    "is_path",
    "is_plain_path",
    "is_repository",
    "label_of",
    "open_sources",
    "parse_reference",
    "without_secrets",
]
