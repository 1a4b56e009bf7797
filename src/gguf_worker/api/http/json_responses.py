"""Responses of the HTTP front: JSON, and errors in the shape that their client reads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Scope

from gguf_worker.api.routes import ERROR_SHAPES, error_shape
from gguf_worker.api.writing import ErrorShape
from gguf_worker.errors import Unauthorized, WorkerError

JSON = "application/json"
_LONGEST_RETRY = 60.0
"""Seconds; clients that are told a longer time don't heed it, and come again at once."""


def json_response(
    data: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Return the data as JSON."""
    return Response(msgspec.json.encode(data), status, headers, JSON)


def error_response(
    error: WorkerError,
    scope: Scope,
    status: int | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return the error for the request of `scope`, under its own status unless one is given."""
    more = dict(headers or {})
    if error.retry_after is not None or error.retryable:
        seconds = min(error.retry_after or 1.0, _LONGEST_RETRY)
        more["retry-after"] = str(max(1, math.ceil(seconds)))
        more["retry-after-ms"] = str(max(1, math.ceil(1000 * seconds)))
    if error.status == Unauthorized.status:
        more["www-authenticate"] = "Bearer"
    data = _error_shape(scope).answer(error, scope["state"]["job_id"])
    return json_response(data, status or error.status, more)


def _error_shape(scope: Scope) -> ErrorShape:
    """Return the error shape of the client's dialect, recognised by its header or by the route."""
    for shape in ERROR_SHAPES.values():
        header = shape.client_header
        if header is not None and any(name == header.encode() for name, _ in scope["headers"]):
            return shape
    return error_shape(scope["path"])
