"""The HTTP front: OpenAI's routes, health and metrics over the same gateway, on Starlette and uvicorn.

Knows nothing of generation. A client that goes away cancels its request at once, also while it waits
for a token. The only file that imports starlette and uvicorn; nothing else here needs them.
"""

from __future__ import annotations

import asyncio
import hmac
import math
import re
import signal
import threading
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from types import FrameType
from typing import Any

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gguf_worker.api.gateway import (
    CHAT,
    COMPLETIONS,
    MODELS,
    OPENAI_ROUTES,
    ApiCall,
    Gateway,
    Shape,
)
from gguf_worker.api.render import Body, Event, Failed, Item, Reply, error_object, event
from gguf_worker.errors import (
    DeadlineExceeded,
    InternalError,
    InvalidRequest,
    PayloadTooLarge,
    RequestCancelled,
    Unauthorized,
    UnknownRoute,
    WorkerError,
)

MAX_BODY = 32 * 2**20
"""Bytes of a request's body; RunPod's load balancer lets 30 MB through."""

_PING = {"starting": 204, "ready": 200, "degraded": 200}
_JSON = "application/json"
_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_EVENT_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}


def build_http(
    gateway: Gateway,
    *,
    api_key: str | None,
    state: Callable[[], str],
    default_timeout: float,
    max_body_bytes: int = MAX_BODY,
    now: Callable[[], float] = time.monotonic,
) -> Starlette:
    """The application. `state` is one of starting, ready, degraded, draining, dead.

    With an `api_key`, everything under /v1 needs it as a bearer token. `default_timeout` is seconds.
    """
    front = _Front(gateway, state, default_timeout, max_body_bytes, now)
    return Starlette(
        routes=[
            Route(CHAT, front.generate, methods=["POST"]),
            Route(COMPLETIONS, front.generate, methods=["POST"]),
            Route(MODELS, front.models, methods=["GET"]),
            Route(MODELS + "/{name:path}", front.models, methods=["GET"]),
            Route("/ping", front.ping, methods=["GET"]),
            Route("/health", front.health, methods=["GET"]),
            Route("/metrics", front.metrics, methods=["GET"]),
        ],
        middleware=[Middleware(_Doorway, api_key=api_key)],
        exception_handlers={HTTPException: _no_route, Exception: _bug},
    )


def serve(
    app: Starlette, *, host: str, port: int, grace: float, on_shutdown: Callable[[], None]
) -> None:
    """Serves until SIGTERM or SIGINT, then drains: running requests get `grace` seconds to end.

    `on_shutdown` is called when the signal comes. Raises SystemExit if the address is taken.
    """
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            host=host,
            port=port,
            access_log=False,
            log_config=None,
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=max(1, math.ceil(grace)),
        )
    )
    stop = server.handle_exit

    def begin_shutdown(sig: int, frame: FrameType | None) -> None:
        if not server.should_exit:
            on_shutdown()
        stop(sig, frame)

    server.handle_exit = begin_shutdown  # type: ignore[method-assign]
    # Ours too: a signal may come before uvicorn's handlers are there, and after its drain uvicorn
    # raises again what it caught, which would end the program instead of returning to it.
    with _signals_to(begin_shutdown):
        server.run()


@contextmanager
def _signals_to(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


class _Front:
    """The routes."""

    def __init__(
        self,
        gateway: Gateway,
        state: Callable[[], str],
        default_timeout: float,
        max_body_bytes: int,
        now: Callable[[], float],
    ) -> None:
        self._gateway = gateway
        self._state = state
        self._timeout = default_timeout
        self._max_body = max_body_bytes
        self._now = now

    async def generate(self, request: Request) -> ASGIApp:
        deadline = self._now() + self._timeout
        try:
            async with asyncio.timeout(self._timeout):
                body = await _read_body(request, self._max_body)
        except WorkerError as error:
            return self._refused(request, error)
        except TimeoutError:
            return self._refused(request, DeadlineExceeded("The body did not come in time."))
        except ClientDisconnect:
            return self._refused(request, RequestCancelled("The client went away."))
        return _Answer(self._gateway, _call(request, body, deadline))

    async def models(self, request: Request) -> ASGIApp:
        return _Answer(self._gateway, _call(request, {}, None))

    async def ping(self, request: Request) -> Response:
        return Response(status_code=_PING.get(self._state(), 503))

    async def health(self, request: Request) -> Response:
        status = 200 if _PING.get(self._state()) == 200 else 503
        return _json(dict(self._gateway.health()), status)

    async def metrics(self, request: Request) -> Response:
        return Response(self._gateway.metrics(), headers={"content-type": _PROMETHEUS})

    def _refused(self, request: Request, error: WorkerError) -> Response:
        return _error(self._gateway.refuse(_call(request, {}, None), error).error)


class _Answer:
    """Delivers one call's replies, and watches meanwhile if the client is still there."""

    def __init__(self, gateway: Gateway, call: ApiCall) -> None:
        self._gateway = gateway
        self._call = call

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        delivery = asyncio.create_task(self._deliver(scope, receive, send))
        departure = asyncio.create_task(_departure(receive))
        try:
            await asyncio.wait((delivery, departure), return_when=asyncio.FIRST_COMPLETED)
        finally:
            departure.cancel()
            delivery.cancel()
            # Cancelled, a delivery ends within one step; its request is closed before this returns.
            await asyncio.wait((delivery, departure))
        if not delivery.cancelled():
            delivery.result()

    async def _deliver(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._gateway.handle(self._call)) as replies:
            first = await anext(replies)
            if isinstance(first, Event):
                await _send_events(first, replies, send)
                return
        await _whole(first)(scope, receive, send)


class _Doorway:
    """Names each request, returns the name, and asks for the key where one is needed."""

    def __init__(self, app: ASGIApp, api_key: str | None) -> None:
        self._app = app
        self._key = None if api_key is None else api_key.encode()

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
                MutableHeaders(scope=message)["x-request-id"] = name
            await send(message)

        if self._key is None or not scope["path"].startswith("/v1/") or self._opens(headers):
            await self._app(scope, receive, send_named)
            return
        denied = Unauthorized(
            "The API key is missing or wrong. Send it as `Authorization: Bearer <key>`."
        )
        await _error(denied)(scope, receive, send_named)

    def _opens(self, headers: Headers) -> bool:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        key = token.strip().encode("latin-1")
        return scheme.lower() == "bearer" and hmac.compare_digest(key, self._key or b"")


async def _departure(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send_events(first: Event, rest: AsyncGenerator[Reply, None], send: Send) -> None:
    raw = [(name.encode(), value.encode()) for name, value in _EVENT_HEADERS.items()]
    await send({"type": "http.response.start", "status": 200, "headers": raw})
    await _send_part(send, first.text)
    async for reply in rest:
        if isinstance(reply, Event):
            await _send_part(send, reply.text)
        elif isinstance(reply, Failed):
            await _send_part(send, reply.event or event(error_object(reply.error)))
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_part(send: Send, text: str) -> None:
    await send({"type": "http.response.body", "body": text.encode(), "more_body": True})


def _whole(reply: Body | Item | Failed) -> Response:
    return _error(reply.error) if isinstance(reply, Failed) else _json(reply.data, 200)


def _call(request: Request, body: Mapping[str, Any], deadline: float | None) -> ApiCall:
    names = request.scope["state"]
    route = request.scope["path"]
    return ApiCall(names["request_id"], names["job_id"], route, body, Shape.OPENAI, deadline)


async def _read_body(request: Request, most: int) -> Mapping[str, Any]:
    kind = request.headers.get("content-type", _JSON).partition(";")[0].strip().lower()
    if kind != _JSON:
        raise InvalidRequest(f"Send the body with `Content-Type: {_JSON}`, not {kind[:100]!r}.")
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > most:
            raise PayloadTooLarge(f"The body is larger than {most} bytes.")
    try:
        body = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidRequest(f"The body is not valid JSON: {exc}.") from exc
    if not isinstance(body, dict):
        raise InvalidRequest("The body should be a JSON object.")
    return body


def _json(data: dict[str, Any], status: int, headers: Mapping[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(data), status, headers, _JSON)


def _error(
    error: WorkerError, status: int | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    more = dict(headers or {})
    if error.retry_after is not None or error.retryable:
        more["retry-after"] = str(max(1, math.ceil(error.retry_after or 1)))
    if error.status == Unauthorized.status:
        more["www-authenticate"] = "Bearer"
    return _json(error_object(error), status or error.status, more)


async def _no_route(request: Request, exc: Exception) -> Response:
    """Starlette's own refusals, in our shape: no such path, or not by this method."""
    assert isinstance(exc, HTTPException)
    path, method = request.scope["path"][:200], request.method
    if exc.status_code == 405:
        allowed = (exc.headers or {}).get("Allow", "")
        error = UnknownRoute(f"{path} is not served by {method}; use {allowed}.")
        return _error(error, status=405, headers=exc.headers)
    return _error(
        UnknownRoute(f"There is no route {path!r}. There are: {', '.join(OPENAI_ROUTES)}.")
    )


async def _bug(request: Request, exc: Exception) -> Response:
    """Starlette raises the exception again after this answer, so that it is logged."""
    return _error(InternalError("The worker failed to answer this request."))
