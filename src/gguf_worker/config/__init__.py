"""What the worker is told (settings) and where it runs (machine)."""

from gguf_worker.config.loading import load_settings
from gguf_worker.config.machine import (
    Gpu,
    Machine,
    interpreter_seconds,
    mapped_bytes,
    probe,
    process_seconds,
)
from gguf_worker.config.settings import Catalog, Entry, Settings

__all__ = [
    "Catalog",
    "Entry",
    "Gpu",
    "Machine",
    "Settings",
    "interpreter_seconds",
    "load_settings",
    "mapped_bytes",
    "probe",
    "process_seconds",
]
