"""The shape of errors in a dialect: on a stream, as a whole answer, and in the OpenAPI document."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gguf_worker.api.writing.replies import server_sent_event
from gguf_worker.errors import WorkerError


def error_object(error: WorkerError) -> dict[str, Any]:
    """Return an error as the plain shape's object."""
    return {"error": error.public()}


def _plain_event(error: WorkerError) -> str:
    return server_sent_event(error_object(error))


def _plain_answer(error: WorkerError, request_id: str) -> dict[str, Any]:
    return error_object(error)


def _plain_type(error: type[WorkerError]) -> str:
    return error.type


@dataclass(frozen=True, slots=True)
class ErrorShape:
    """The ways in which a dialect writes errors; the defaults are OpenAI's."""

    name: str
    """The shape's name in the OpenAPI document."""
    event: Callable[[WorkerError], str] = _plain_event
    """Makes the text that ends a stream whose answer has not begun."""
    answer: Callable[[WorkerError, str], dict[str, Any]] = _plain_answer
    """Makes the answer to a request that fails as a whole, from the error and the request's id."""
    type_of: Callable[[type[WorkerError]], str] = _plain_type
    """Gives the dialect's type for a class of errors."""
    around: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """JSON schemas of the fields that `answer` has beside the error."""
    flat: bool = False
    """The error's fields stand beside each other, and `error` is its message."""
    client_header: str | None = None
    """A header of the dialect's clients, whose errors have this shape on every route."""


PLAIN_ERRORS = ErrorShape("Error")
