"""Consumers of events: metrics, health, and the log. Nothing here feeds back into the worker.

It depends on the events and the standard library's log records, not on their sources.
"""

from gguf_worker.monitoring.cold_start import ColdStart
from gguf_worker.monitoring.event_log import EventLog
from gguf_worker.monitoring.health import Health, WorkerState
from gguf_worker.monitoring.logging_setup import bind_request, configure_logging
from gguf_worker.monitoring.metrics import Metrics

__all__ = [
    "ColdStart",
    "EventLog",
    "Health",
    "Metrics",
    "WorkerState",
    "bind_request",
    "configure_logging",
]
