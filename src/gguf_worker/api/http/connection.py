"""One TCP connection and its limits: uvicorn's protocol, which also drops clients that stall.

A request's head must come soon and be short; a client that does not read its answer is cut off,
which cancels the request; a connection beyond the limit is marked, and refused by AuthMiddleware. A
refusal that can still be answered has the plain error shape.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import h11
import msgspec
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from gguf_worker.api.http.auth import CROWDED
from gguf_worker.api.http.json_responses import JSON
from gguf_worker.api.writing import error_object
from gguf_worker.errors import DeadlineExceeded, InvalidRequest, PayloadTooLarge, WorkerError

HEAD_BYTES = 32 * 2**10
"""Bytes that a request's line and headers may have."""

HEAD_SECONDS = 20.0
"""Seconds for a request's line and headers, from the connection or their first byte on."""

STALL_SECONDS = 60.0
"""Seconds for which an answer may wait for a client that reads nothing."""

_LINGER = 2.0
"""Seconds in which a refused client may still send what it began, so that it reads the refusal."""


class Connection(H11Protocol):
    """A client's connection, made by uvicorn; its `limit_concurrency` counts connections here."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        # uvicorn's own refusal is not in our error shape, and also counts requests that wait.
        self._most, self.limit_concurrency = self.limit_concurrency, None
        self._refused = False
        self._head = _Countdown(self.loop, self._head_is_late)
        self._stall = _Countdown(self.loop, lambda: self.transport.abort())

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self._most is not None and len(self.connections) > self._most:
            self.app_state = {**self.app_state, CROWDED: True}
        self._head.start(HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        self._head.stop()
        self._stall.stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        super().data_received(data)
        if self._refused:
            return
        if self.cycle is None or self.cycle.response_complete:
            self._head.start(HEAD_SECONDS)
        else:
            self._head.stop()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall.start(STALL_SECONDS)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stall.stop()

    def send_400_response(self, msg: str) -> None:
        """Refuse bytes that are not HTTP; uvicorn calls this while it handles h11's error."""
        if getattr(sys.exception(), "error_status_hint", 400) == 431:
            text = f"The request's line and headers are larger than {HEAD_BYTES} bytes."
            self._refuse(431, PayloadTooLarge(text))
        else:
            self._refuse(400, InvalidRequest("This is not a valid HTTP request."))

    def _head_is_late(self) -> None:
        received, _ = self.conn.trailing_data
        if received and self.conn.our_state is h11.IDLE:
            self._refuse(408, DeadlineExceeded("The request's headers did not come in time."))
        else:
            self.transport.abort()

    def _refuse(self, status: int, error: WorkerError) -> None:
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.close()
            return
        body = msgspec.json.encode(error_object(error))
        length = str(len(body))
        headers = [("content-type", JSON), ("content-length", length), ("connection", "close")]
        self._refused = True
        for part in (
            h11.Response(status_code=status, headers=headers),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(part) or b"")
        # If closed with unread bytes, the connection would be reset and the answer lost.
        self.transport.write_eof()
        self._head.stop()
        self._stall.start(_LINGER)


class _Countdown:
    """A timer that calls `then` when it is not stopped in time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, then: Callable[[], None]) -> None:
        self._loop = loop
        self._then = then
        self._handle: asyncio.TimerHandle | None = None

    def start(self, seconds: float) -> None:
        """Start the timer; a running one is left as it is."""
        if self._handle is None:
            self._handle = self._loop.call_later(seconds, self._then)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
