"""The delivery of an answer: whole, or as a stream with signs of life while nothing comes.

A stream's headers go out with its first text. If that takes long, they go out before it, with a
sign of life, so that no proxy takes the silence of a long prompt for a dead server; a failure after
that is sent as an event.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gguf_worker.api.call import ApiCall
from gguf_worker.api.gateway import Gateway
from gguf_worker.api.http.json_responses import error_response, json_response
from gguf_worker.api.routes import stream_form
from gguf_worker.api.writing import (
    PLAIN_ERRORS,
    ApiReply,
    EventText,
    Failed,
    StreamForm,
    server_sent_event,
)

KEEP_ALIVE = 15.0
"""Seconds of silence after which a stream shows a sign of life; proxies often wait for 30 or 60.
Where they are 0, it shows none."""

_HEADERS = [
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class AnswerDelivery:
    """The answer to one call, as an ASGI application that ends when the client disconnects."""

    def __init__(self, gateway: Gateway, call: ApiCall, keep_alive: float = KEEP_ALIVE) -> None:
        self._gateway = gateway
        self._call = call
        self._keep_alive = keep_alive

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
            if self._call.stream:
                form = stream_form(self._call.route)
                whole = await _TextStream(send, form, self._keep_alive).deliver(replies)
            else:
                whole = await anext(replies)
        if whole is not None:
            await _response(whole, scope)(scope, receive, send)


class _TextStream:
    """A response whose text comes in parts. Two tasks write to it, one at a time."""

    def __init__(self, send: Send, form: StreamForm, keep_alive: float) -> None:
        self._send = send
        self._form = form
        self._keep_alive = keep_alive
        self._begun = False
        self._turn = asyncio.Lock()
        self._now = asyncio.get_running_loop().time
        self._written = self._now()

    async def deliver(self, replies: AsyncGenerator[ApiReply, None]) -> ApiReply | None:
        """Send the replies. Return, unsent, a reply before the headers that is not an event."""
        beat = asyncio.create_task(self._beat())
        try:
            async for reply in replies:
                if not self._begun and not isinstance(reply, EventText):
                    return reply
                await self._write(_text(reply))
        finally:
            beat.cancel()
            await asyncio.wait((beat,))
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        return None

    async def _beat(self) -> None:
        while self._keep_alive > 0:
            silence = self._now() - self._written
            if silence >= self._keep_alive:
                await self._write(self._form.sign_of_life)
            else:
                await asyncio.sleep(self._keep_alive - silence)

    async def _write(self, text: str) -> None:
        async with self._turn:
            if not self._begun:
                self._begun = True
                kind = (b"content-type", self._form.content_type.encode())
                await self._send(
                    {"type": "http.response.start", "status": 200, "headers": [kind, *_HEADERS]}
                )
            # Waits while the client does not read, so that nothing more is asked of the provider.
            await self._send(
                {"type": "http.response.body", "body": text.encode(), "more_body": True}
            )
            self._written = self._now()


async def _departure(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _text(reply: ApiReply) -> str:
    match reply:
        case EventText():
            return reply.text
        case Failed():
            return reply.event or PLAIN_ERRORS.event(reply.error)
        case _:
            return server_sent_event(reply.data)


def _response(reply: ApiReply, scope: Scope) -> Response:
    match reply:
        case Failed():
            return error_response(reply.error, scope)
        case EventText():
            raise RuntimeError("an event where a whole answer was asked for")
        case _:
            return json_response(reply.data)
