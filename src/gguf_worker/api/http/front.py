"""The HTTP application: the registry's routes and a few of HTTP's own, over the gateway."""

from __future__ import annotations

import base64
import hashlib
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cached_property
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gguf_worker.api.call import ApiCall, Dialect
from gguf_worker.api.gateway import Gateway
from gguf_worker.api.http.auth import DOCUMENT, HEALTH, METRICS, PAGE, PING, AuthMiddleware
from gguf_worker.api.http.bodies import Bodies
from gguf_worker.api.http.delivery import KEEP_ALIVE, AnswerDelivery
from gguf_worker.api.http.json_responses import error_response, json_response
from gguf_worker.api.openapi import openapi_document
from gguf_worker.api.routes import ROUTES, no_route, plain_path
from gguf_worker.errors import InternalError, RequestCancelled, UnknownRoute, WorkerError

_PING = {"starting": 204, "ready": 200, "degraded": 200}
_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


def build_http(
    gateway: Gateway,
    *,
    state: Callable[[], str],
    default_timeout: float,
    api_keys: Collection[str] = (),
    origins: Collection[str] = (),
    health_port: int | None = None,
    bodies: Bodies | None = None,
    keep_alive: float = KEEP_ALIVE,
    now: Callable[[], float] = time.monotonic,
) -> Starlette:
    """Return the application. `state` is one of starting, ready, degraded, draining, dead.

    With `api_keys`, every route needs one of them, except the page, the OpenAPI document, health
    and metrics. Pages from `origins` may call from a browser; `*` allows any. On `health_port` only
    health is served. `default_timeout` and `keep_alive`, the longest silence of a stream (0: any),
    are in seconds.
    """
    front = _Front(gateway, state, default_timeout, bodies or Bodies(), keep_alive, now)
    return Starlette(
        routes=[
            *_gateway_routes(front),
            Route(PING, front.ping, methods=["GET"]),
            Route(HEALTH, front.health, methods=["GET"]),
            Route(METRICS, front.metrics, methods=["GET"]),
            Route(DOCUMENT, front.document, methods=["GET"]),
            Route(PAGE, front.page, methods=["GET"]),
        ],
        middleware=[
            *_cors(origins),
            Middleware(_PlainPaths),
            Middleware(AuthMiddleware, api_keys, health_port),
            Middleware(_ErrorBoundary),
        ],
        exception_handlers={HTTPException: _unrouted},
    )


def _gateway_routes(front: _Front) -> Iterator[BaseRoute]:
    for route in ROUTES:
        for method in route.methods:
            handler = front.post if method == "POST" else front.get
            for path in route.paths:
                yield Route(path, handler, methods=[method])
            if route.has_names:
                yield Route(route.path + "/{name:path}", handler, methods=[method])


class _Front:
    """The handlers of the routes."""

    def __init__(
        self,
        gateway: Gateway,
        state: Callable[[], str],
        default_timeout: float,
        bodies: Bodies,
        keep_alive: float,
        now: Callable[[], float],
    ) -> None:
        self._gateway = gateway
        self._state = state
        self._timeout = default_timeout
        self._bodies = bodies
        self._keep_alive = keep_alive
        self._now = now

    async def post(self, request: Request) -> ASGIApp:
        deadline = self._now() + self._timeout
        try:
            body = await self._bodies.read(request, self._timeout)
        except WorkerError as error:
            return self._refused(request, error)
        except ClientDisconnect:
            return self._refused(request, RequestCancelled("The client went away."))
        call = _call(request, body.fields, deadline)
        return body.during(AnswerDelivery(self._gateway, call, self._keep_alive))

    async def get(self, request: Request) -> ASGIApp:
        return AnswerDelivery(self._gateway, _call(request, {}, None))

    async def ping(self, request: Request) -> Response:
        return Response(status_code=_PING.get(self._state(), 503))

    async def health(self, request: Request) -> Response:
        status = 200 if _PING.get(self._state()) == 200 else 503
        return json_response(self._gateway.health(), status)

    async def metrics(self, request: Request) -> Response:
        return Response(self._gateway.metrics(), headers={"content-type": _PROMETHEUS})

    async def document(self, request: Request) -> Response:
        return self._document

    async def page(self, request: Request) -> Response:
        return self._page

    @cached_property
    def _document(self) -> Response:
        return json_response(openapi_document(ROUTES))

    @cached_property
    def _page(self) -> Response:
        text = files(__package__).joinpath("page.html").read_text(encoding="utf-8")
        return Response(text, headers=_page_headers(text))

    def _refused(self, request: Request, error: WorkerError) -> Response:
        failed = self._gateway.refuse(_call(request, {}, None), error)
        return error_response(failed.error, request.scope)


class _PlainPaths:
    """The middleware that brings a path into the form that routes, keys and reports know."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["path"] = plain_path(scope["path"])
        await self._app(scope, receive, send)


class _ErrorBoundary:
    """The middleware that answers where our own code failed, and lets Starlette log it.

    Starlette's own error response is made outside the middleware that adds headers: it would have
    no request id, and a page of another origin could not read it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def send_noted(message: Message) -> None:
            nonlocal begun
            begun = begun or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, send_noted)
        except Exception:
            if scope["type"] == "http" and not begun:
                error = InternalError("The worker failed to answer this request.")
                await error_response(error, scope)(scope, receive, send)
            raise


def _cors(origins: Collection[str]) -> list[Middleware]:
    if not origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=tuple(origins),
            allow_methods=("GET", "POST"),
            allow_headers=("*",),
            expose_headers=("x-request-id", "request-id", "retry-after"),
        )
    ]


def _call(request: Request, body: Mapping[str, Any], deadline: float | None) -> ApiCall:
    names = request.scope["state"]
    route = request.scope["path"]
    return ApiCall(names["request_id"], names["job_id"], route, body, Dialect.OPENAI, deadline)


def _page_headers(text: str) -> dict[str, str]:
    """Return headers that allow the page its own script and style, by hash, and nothing else."""
    allowed = {
        f"{kind}-src": _hash(re.search(rf"<{kind}>(.*?)</{kind}>", text, re.DOTALL))
        for kind in ("script", "style")
    }
    policy = {
        "default-src": "'none'",
        "connect-src": "'self'",
        "img-src": "data:",
        **allowed,
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return {
        "content-type": "text/html; charset=utf-8",
        "content-security-policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
        "cache-control": "no-cache",
    }


def _hash(found: re.Match[str] | None) -> str:
    assert found is not None
    digest = hashlib.sha256(found[1].encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


async def _unrouted(request: Request, exc: Exception) -> Response:
    """Return Starlette's refusal of a path (404) or a method (405) in our error shape."""
    assert isinstance(exc, HTTPException)
    path, method = request.scope["path"][:200], request.method
    if exc.status_code == 405:
        allowed = (exc.headers or {}).get("Allow", "")
        error = UnknownRoute(f"{path} is not served by {method}; use {allowed}.")
        return error_response(error, request.scope, status=405, headers=exc.headers)
    return error_response(no_route(path), request.scope)
