"""The form of the worker's log: one JSON object a line on stderr, or readable lines on a terminal.

All modules log through the standard library, with facts in `extra`. Fields that hold prompts or
answers by their name are dropped, and known secrets are masked everywhere. The message's own text
is not examined otherwise.
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

_PACKAGE = "gguf_worker"

_PRIVATE = frozenset({"prompt", "messages", "text", "content", "input"})
"""Names of fields that hold prompts and answers; they are dropped at any depth."""

_MASK = "***"

_LONGEST = 8_000
"""Characters of one value; the platform drops lines of workers that write too much."""

_ids: ContextVar[Mapping[str, str]] = ContextVar("request_ids", default=MappingProxyType({}))

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def configure_logging(
    level: str,
    *,
    secrets: Iterable[str] = (),
    stream: TextIO | None = None,
    console: bool | None = None,
) -> None:
    """Send all log records of this process to `stream` (stderr), in place of earlier handlers.

    `level`: for our own loggers. Other libraries log from warnings up: at lower levels HTTP clients
    write whole addresses, signatures included. `secrets`: texts to mask. `console`: readable lines
    in place of JSON; None: if the stream is a terminal.
    """
    out = stream or sys.stderr
    handler = logging.StreamHandler(out)
    handler.setFormatter(_LineFormatter(secrets, out.isatty() if console is None else console))
    severity = logging.getLevelNamesMapping()[level.upper()]
    logging.basicConfig(handlers=[handler], level=max(severity, logging.WARNING), force=True)
    logging.getLogger(_PACKAGE).setLevel(severity)


@contextmanager
def bind_request(**ids: str) -> Iterator[None]:
    """Add `ids`, such as `job_id`, to every log record of this task within the block."""
    before = _ids.get()
    _ids.set({**before, **ids})
    try:
        yield
    finally:
        # Not by token: an async generator may be closed in another context than it began in.
        _ids.set(before)


class _LineFormatter(logging.Formatter):
    """Makes one line of a record, with the secrets masked."""

    def __init__(self, secrets: Iterable[str], console: bool) -> None:
        super().__init__()
        # Longest first: a secret may contain another, as an address does its password.
        self._secrets = sorted({secret for secret in secrets if secret}, key=len, reverse=True)
        self._render = _console_line if console else _json_line

    def format(self, record: logging.LogRecord) -> str:
        return self._render(self._cleaned(self._facts(record)))

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

    def _cleaned(self, value: Any) -> Any:
        """Make a value JSON-safe: private fields dropped, secrets masked, long texts cut."""
        if value is None or isinstance(value, bool | int):
            return value
        if isinstance(value, float):
            return round(value, 6) if math.isfinite(value) else str(value)
        if isinstance(value, Mapping):
            return {
                self._masked(str(key)): self._cleaned(inner)
                for key, inner in value.items()
                if str(key) not in _PRIVATE
            }
        if isinstance(value, list | tuple | set | frozenset):
            return [self._cleaned(inner) for inner in value]
        return self._masked(str(value))

    def _masked(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, _MASK)
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
    line = f"{at} {level:<7} {logger.removeprefix(_PACKAGE + '.')}: {_printable(event)}{fields}"
    return line if exception is None else f"{line}\n{exception}"


def _printable(text: str) -> str:
    """Return the text as it is, or its repr if it could control a terminal."""
    return text if text.isprintable() else repr(text)
