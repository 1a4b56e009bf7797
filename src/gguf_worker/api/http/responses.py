"""What the HTTP front answers with: JSON, and errors with their status and headers.

An error has the one shape, which for Anthropic's clients stands inside of theirs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Scope

from gguf_worker.api.anthropic_wire import error_answer
from gguf_worker.api.gateway import COUNT_TOKENS, MESSAGES
from gguf_worker.api.render import error_object
from gguf_worker.errors import Unauthorized, WorkerError

JSON = "application/json"


def json_response(
    data: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    return Response(msgspec.json.encode(data), status, headers, JSON)


def error_response(
    error: WorkerError,
    scope: Scope,
    status: int | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The error, under its own status unless another one says more, for the request of `scope`."""
    more = dict(headers or {})
    if error.retry_after is not None or error.retryable:
        more["retry-after"] = str(max(1, math.ceil(error.retry_after or 1)))
    if error.status == Unauthorized.status:
        more["www-authenticate"] = "Bearer"
    return json_response(_error(error, scope), status or error.status, more)


def _error(error: WorkerError, scope: Scope) -> dict[str, Any]:
    if _is_anthropics(scope):
        return error_answer(error, scope["state"]["job_id"])
    return error_object(error)


def _is_anthropics(scope: Scope) -> bool:
    """By its path, or by the header that Anthropic's clients send with all that they ask for."""
    if scope["path"] in (MESSAGES, COUNT_TOKENS):
        return True
    return any(name == b"anthropic-version" for name, _ in scope["headers"])
