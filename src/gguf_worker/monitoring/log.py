"""The worker's log: one JSON object a line on stderr, or readable lines where that is a terminal.

Everybody logs through the standard library, with facts in `extra`; this module decides the form. It
promises that no prompt or answer is logged under a name that holds one, and that no known secret is
logged at all. It cannot know what somebody writes into the message itself.
"""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, TextIO

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

OURS = "gguf_worker"

PRIVATE = frozenset({"prompt", "messages", "text", "content", "input"})
"""Names under which prompts and answers travel; fields so called are dropped at any depth."""

MASK = "***"

_LONGEST = 8_000
"""Characters of one value; the platform drops lines of workers that write too much."""

_ids: ContextVar[Mapping[str, str]] = ContextVar("request_ids", default=MappingProxyType({}))

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def configure(
    level: str,
    *,
    secrets: Iterable[str] = (),
    stream: TextIO | None = None,
    console: bool | None = None,
) -> None:
    """Send every log record of this process to `stream` (stderr), replacing handlers set before.

    `level` is for our own loggers. Other libraries speak from warnings up: at lower levels HTTP
    clients write whole addresses, signatures included.
    """
    out = stream or sys.stderr
    handler = logging.StreamHandler(out)
    handler.setFormatter(_Lines(secrets, out.isatty() if console is None else console))
    severity = logging.getLevelNamesMapping()[level.upper()]
    logging.basicConfig(handlers=[handler], level=max(severity, logging.WARNING), force=True)
    logging.getLogger(OURS).setLevel(severity)


@contextmanager
def bind_request(**ids: str) -> Iterator[None]:
    """Within, every log record of this task carries `ids`, such as `job_id` and `request_id`."""
    before = _ids.get()
    _ids.set({**before, **ids})
    try:
        yield
    finally:
        # Not by token: an async generator may be closed in another context than it began in.
        _ids.set(before)


class EventLog:
    """Writes events to the log: a line for each request, phase, model, and loss of the engine."""

    def __init__(self) -> None:
        self._log = logging.getLogger(f"{OURS}.events")

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


class _Lines(logging.Formatter):
    """Turns a record into one line; knows the secrets, and nothing of where the line goes."""

    def __init__(self, secrets: Iterable[str], console: bool) -> None:
        super().__init__()
        # Longest first: a secret may contain another, as an address does its password.
        self._secrets = sorted({secret for secret in secrets if secret}, key=len, reverse=True)
        self._render = _console_line if console else _json_line

    def format(self, record: logging.LogRecord) -> str:
        return self._render(self._clean(self._facts(record)))

    def _facts(self, record: logging.LogRecord) -> dict[str, Any]:
        extra = {key: value for key, value in vars(record).items() if key not in _STANDARD}
        facts = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **_ids.get(),
            **extra,
        }
        if record.exc_info:
            facts["exception"] = self.formatException(record.exc_info)
        return facts

    def _clean(self, value: Any) -> Any:
        """JSON-safe, without private names, with secrets masked and long texts cut."""
        if value is None or isinstance(value, bool | int):
            return value
        if isinstance(value, float):
            return round(value, 6) if math.isfinite(value) else str(value)
        if isinstance(value, Mapping):
            return {
                self._mask(str(key)): self._clean(inner)
                for key, inner in value.items()
                if str(key) not in PRIVATE
            }
        if isinstance(value, list | tuple | set | frozenset):
            return [self._clean(inner) for inner in value]
        return self._mask(str(value))

    def _mask(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, MASK)
        if len(text) > _LONGEST:
            half = _LONGEST // 2
            text = f"{text[:half]}... ({len(text) - _LONGEST} more) ...{text[-half:]}"
        return text


def _json_line(facts: dict[str, Any]) -> str:
    return json.dumps(facts)


def _console_line(facts: dict[str, Any]) -> str:
    exception = facts.pop("exception", None)
    at = datetime.fromisoformat(facts.pop("ts")).astimezone().strftime("%H:%M:%S")
    level, logger, event = (facts.pop(key) for key in ("level", "logger", "event"))
    fields = "".join(f"  {key}={_printable(str(value))}" for key, value in facts.items())
    line = f"{at} {level:<7} {logger.removeprefix(OURS + '.')}: {_printable(event)}{fields}"
    return line if exception is None else f"{line}\n{exception}"


def _printable(text: str) -> str:
    """As it is, unless it could play tricks on a terminal."""
    return text if text.isprintable() else repr(text)
