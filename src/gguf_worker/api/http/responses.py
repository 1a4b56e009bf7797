"""What the HTTP front answers with: JSON, and the one shape of an error with its status and headers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.responses import Response

from gguf_worker.api.render import error_object
from gguf_worker.errors import Unauthorized, WorkerError

JSON = "application/json"


def json_response(
    data: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    return Response(msgspec.json.encode(data), status, headers, JSON)


def error_response(
    error: WorkerError, status: int | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    """The error, under its own status unless another one says more."""
    more = dict(headers or {})
    if error.retry_after is not None or error.retryable:
        more["retry-after"] = str(max(1, math.ceil(error.retry_after or 1)))
    if error.status == Unauthorized.status:
        more["www-authenticate"] = "Bearer"
    return json_response(error_object(error), status or error.status, more)
