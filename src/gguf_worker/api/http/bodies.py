"""The reading of bodies: one JSON object each, bounded in size, time, and total memory.

A body is held until its request has ended: what was made of it is, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from gguf_worker.api.http.json_responses import JSON
from gguf_worker.errors import DeadlineExceeded, InvalidRequest, Overloaded, PayloadTooLarge

MAX_BODY = 32 * 2**20
"""Bytes of one body; RunPod's load balancer lets 30 MB through."""

MAX_BODIES = 256 * 2**20
"""Bytes of all bodies that are held at one time."""

FREE_BODY = 64 * 2**10
"""Bytes of a body that large ones never keep out: with as many as there may be connections, they
are 256 MiB too."""

MAX_NESTS = 1_000_000
MAX_VALUES = 5_000_000
"""Opening brackets and colons, and commas, in the bytes of one body, those in its texts included:
more than the tokens that a prompt may have. Reading ten million empty lists takes three seconds,
for which all streams would wait."""

SILENCE = 30.0
"""Seconds without a byte after which a body is given up."""


@dataclass(frozen=True, slots=True)
class HeldBody:
    """A body that was read, and counts as held until `release` is called, once."""

    fields: Mapping[str, Any]
    release: Callable[[], None]

    def during(self, app: ASGIApp) -> ASGIApp:
        """Return the application that releases the body when `app` is over."""

        async def run(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await app(scope, receive, send)
            finally:
                self.release()

        return run


class Bodies:
    """The reader of bodies, which counts how much of them is held at the moment."""

    def __init__(
        self,
        *,
        most: int = MAX_BODY,
        most_held: int = MAX_BODIES,
        free: int = FREE_BODY,
        silence: float = SILENCE,
    ):
        self._most = most
        self._most_held = most_held
        self._free = free
        self._silence = silence
        self._held = 0

    async def read(self, request: Request, seconds: float) -> HeldBody:
        """Return the body that comes within `seconds`. Raises WorkerError or ClientDisconnect."""
        _check_type(request)
        data = bytearray()
        try:
            async with asyncio.timeout(seconds):
                await self._collect(request, data)
            fields = _decoded(data)
        except TimeoutError:
            self._release(len(data))
            raise DeadlineExceeded("The body did not come in time.") from None
        except BaseException:
            self._release(len(data))
            raise
        size = len(data)
        return HeldBody(fields, lambda: self._release(size))

    async def _collect(self, request: Request, data: bytearray) -> None:
        parts = request.stream()
        while True:
            async with asyncio.timeout(self._silence):
                part = await anext(parts, None)
            if part is None:
                return
            self._held += len(part)
            data += part
            self._check_size(len(data))

    def _release(self, size: int) -> None:
        self._held -= size

    def _check_size(self, size: int) -> None:
        if size > self._most:
            raise PayloadTooLarge(f"The body is larger than {self._most} bytes.")
        if size > self._free and self._held > self._most_held:
            raise Overloaded("Too many large bodies are held at once; try again.", retry_after=1.0)


def _check_type(request: Request) -> None:
    kind = request.headers.get("content-type", JSON).partition(";")[0].strip().lower()
    if kind != JSON:
        raise InvalidRequest(f"Send the body with `Content-Type: {JSON}`, not {kind[:100]!r}.")


def _decoded(data: bytearray) -> Mapping[str, Any]:
    nests = sum(data.count(mark) for mark in b"[{:")
    if nests > MAX_NESTS or data.count(b",") > MAX_VALUES:
        raise InvalidRequest(
            f"The body has too many separate parts: more than {MAX_NESTS} brackets and colons, or "
            f"{MAX_VALUES} commas, those in its texts included."
        )
    try:
        body = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidRequest(f"The body is not valid JSON: {exc}.") from exc
    if not isinstance(body, dict):
        raise InvalidRequest("The body should be a JSON object.")
    return body
