"""The worker's events as lines of the log."""

from __future__ import annotations

import logging

from gguf_worker.events import (
    EngineBack,
    EngineLost,
    Event,
    ModelFailed,
    ModelReady,
    ModelUnloaded,
    Outcome,
    PhaseDone,
    RequestDone,
    StepDone,
)


class EventLog:
    """Logs a line for each request, phase, model, and loss of the engine."""

    def __init__(self) -> None:
        self._log = logging.getLogger("gguf_worker.events")

    def observe(self, event: Event) -> None:
        match event:
            case StepDone():
                return  # hundreds a second: the metrics count them
            case RequestDone():
                level = logging.WARNING if event.outcome is Outcome.ERROR else logging.INFO
                self._write(level, "request done", event)
            case PhaseDone():
                self._write(logging.INFO, "phase done", event)
            case ModelReady():
                self._write(logging.INFO, "model ready", event)
            case ModelUnloaded():
                self._write(logging.INFO, "model unloaded", event)
            case ModelFailed():
                self._write(logging.ERROR, "model failed", event)
            case EngineLost():
                self._write(logging.ERROR, "engine lost", event)
            case EngineBack():
                self._write(logging.INFO, "engine back", event)

    def _write(self, level: int, name: str, event: Event) -> None:
        fields = {field: getattr(event, field) for field in event.__dataclass_fields__}
        known = {field: value for field, value in fields.items() if value not in (None, "")}
        # `name` belongs to the logging module's own records.
        if "name" in known:
            known["model"] = known.pop("name")
        self._log.log(level, name, extra=known)
