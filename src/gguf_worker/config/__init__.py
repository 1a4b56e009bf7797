"""What the worker is told (settings) and where it runs (machine)."""

from gguf_worker.config.loading import load_settings
from gguf_worker.config.machine import Gpu, Machine, interpreter_seconds, probe, process_seconds
from gguf_worker.config.settings import Settings
from gguf_worker.config.words import settings_table

__all__ = [
    "Gpu",
    "Machine",
    "Settings",
    "interpreter_seconds",
    "load_settings",
    "probe",
    "process_seconds",
    "settings_table",
]
