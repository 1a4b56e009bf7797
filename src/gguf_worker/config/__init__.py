"""Configuration: settings, the catalog file, and the machine that the worker runs on.

It reads and checks; what `auto` becomes and what fits on the machine is decided elsewhere.
"""

from gguf_worker.config.loading import load_settings
from gguf_worker.config.machine import (
    Gpu,
    Machine,
    interpreter_seconds,
    mapped_bytes,
    probe,
    process_seconds,
)
from gguf_worker.config.setting_types import ALL_LAYERS
from gguf_worker.config.settings import Catalog, CatalogEntry, Settings

__all__ = [
    "ALL_LAYERS",
    "Catalog",
    "CatalogEntry",
    "Gpu",
    "Machine",
    "Settings",
    "interpreter_seconds",
    "load_settings",
    "mapped_bytes",
    "probe",
    "process_seconds",
]
