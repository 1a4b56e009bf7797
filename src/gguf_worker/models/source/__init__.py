"""Where models come from: what MODEL means, the Hugging Face Hub, https addresses, and caches of the Hub's layout.

Answers which file is meant and gives its bytes; knows no place to keep them.
"""

from gguf_worker.models.source.hub import Hub
from gguf_worker.models.source.hub_cache import CachedModels
from gguf_worker.models.source.reference import (
    HubFile,
    HubQuant,
    LocalFile,
    Reference,
    WebFile,
    is_path,
    is_plain_path,
    parse_reference,
    without_secrets,
)
from gguf_worker.models.source.remote import RemoteFile, Source
from gguf_worker.models.source.selection import choose, label_of
from gguf_worker.models.source.web import WEB_FOLDER, Web

__all__ = [
    "WEB_FOLDER",
    "CachedModels",
    "Hub",
    "HubFile",
    "HubQuant",
    "LocalFile",
    "Reference",
    "RemoteFile",
    "Source",
    "Web",
    "WebFile",
    "choose",
    "is_path",
    "is_plain_path",
    "label_of",
    "parse_reference",
    "without_secrets",
]
