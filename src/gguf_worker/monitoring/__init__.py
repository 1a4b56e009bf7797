"""Consumers of the worker's events: metrics, health and the log. Nothing here feeds back."""

from gguf_worker.monitoring.health import Health, State
from gguf_worker.monitoring.log import EventLog, bind_request, configure
from gguf_worker.monitoring.metrics import Metrics

__all__ = [
    "EventLog",
    "Health",
    "Metrics",
    "State",
    "bind_request",
    "configure",
]
