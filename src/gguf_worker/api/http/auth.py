"""The middleware before all routes: it gives each request an id, and checks its API key.

Everything but the routes named here needs a key where keys are set, so that a new route is closed
by default.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import uuid
from collections.abc import Collection, Iterator

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gguf_worker.api.http.json_responses import error_response
from gguf_worker.errors import Overloaded, Unauthorized, UnknownRoute, WorkerError

PAGE = "/"
PING = "/ping"
HEALTH = "/health"
METRICS = "/metrics"
DOCUMENT = "/openapi.json"

CROWDED = "crowded"
"""The key, in a request's state, that marks a connection beyond the limit."""

_FOR_BALANCERS = frozenset({PING, HEALTH})
_OPEN = _FOR_BALANCERS | {PAGE, METRICS, DOCUMENT}
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class AuthMiddleware:
    """The check of each request: any of `api_keys` is accepted; with none set, no key is needed.

    On `health_port` only health is served.
    """

    def __init__(self, app: ASGIApp, api_keys: Collection[str], health_port: int | None) -> None:
        self._app = app
        self._keys = tuple(_digest(key.encode()) for key in api_keys)
        self._health_port = health_port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        own = uuid.uuid4().hex
        name = given if _REQUEST_ID.fullmatch(given) else own
        scope.setdefault("state", {}).update(request_id=own, job_id=name)

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                sent = MutableHeaders(scope=message)
                # OpenAI's header for the request's id, and Anthropic's.
                sent["x-request-id"] = sent["request-id"] = name
            await send(message)

        refusal = self._refusal(scope, headers)
        app = self._app if refusal is None else error_response(refusal, scope)
        await app(scope, receive, send_named)

    def _refusal(self, scope: Scope, headers: Headers) -> WorkerError | None:
        path = scope["path"]
        if path in _FOR_BALANCERS:
            return None
        if self._health_port is not None and _port(scope) == self._health_port:
            return UnknownRoute(f"On this port there are only {PING} and {HEALTH}.")
        if scope["state"].get(CROWDED):
            return Overloaded("There are too many connections to this worker; try again.")
        if self._keys and path not in _OPEN and not self._opens(headers):
            return Unauthorized(
                "The API key is missing or wrong. "
                "Send it as `Authorization: Bearer <key>` or as `X-Api-Key: <key>`."
            )
        return None

    def _opens(self, headers: Headers) -> bool:
        # Every key is compared, in constant time: the duration reveals nothing about a key.
        opens = False
        for offered in _offered(headers):
            digest = _digest(offered.strip().encode("latin-1"))
            for key in self._keys:
                opens |= hmac.compare_digest(digest, key)
        return opens


def _offered(headers: Headers) -> Iterator[str]:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        yield token
    yield headers.get("x-api-key", "")


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _port(scope: Scope) -> int | None:
    """Return the port that the request came in by."""
    server = scope.get("server")
    return server[1] if server else None
