"""The reading of bodies: one JSON object each, bounded in size, time, and total memory."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.requests import Request

from gguf_worker.api.http.json_responses import JSON
from gguf_worker.errors import DeadlineExceeded, InvalidRequest, Overloaded, PayloadTooLarge

MAX_BODY = 32 * 2**20
"""Bytes of one body; RunPod's load balancer lets 30 MB through."""

MAX_BODIES = 256 * 2**20
"""Bytes of all bodies that are being read at one time."""

MAX_NESTS = 1_000_000
MAX_VALUES = 5_000_000
"""Opening brackets and colons, and commas, in the bytes of one body, those in its texts included:
more than the tokens that a prompt may have. Reading ten million empty lists takes three seconds,
for which all streams would wait."""

SILENCE = 30.0
"""Seconds without a byte after which a body is given up."""


class Bodies:
    """The reader of bodies, which counts how much of them is held at the moment."""

    def __init__(
        self, *, most: int = MAX_BODY, most_held: int = MAX_BODIES, silence: float = SILENCE
    ):
        self._most = most
        self._most_held = most_held
        self._silence = silence
        self._held = 0

    async def read(self, request: Request, seconds: float) -> Mapping[str, Any]:
        """Return the body that comes within `seconds`. Raises WorkerError or ClientDisconnect."""
        _check_type(request)
        try:
            async with asyncio.timeout(seconds):
                return _decoded(await self._collected(request))
        except TimeoutError:
            raise DeadlineExceeded("The body did not come in time.") from None

    async def _collected(self, request: Request) -> bytearray:
        data = bytearray()
        parts = request.stream()
        try:
            while True:
                async with asyncio.timeout(self._silence):
                    part = await anext(parts, None)
                if part is None:
                    return data
                self._held += len(part)
                data += part
                self._check_size(len(data))
        finally:
            self._held -= len(data)

    def _check_size(self, size: int) -> None:
        if size > self._most:
            raise PayloadTooLarge(f"The body is larger than {self._most} bytes.")
        if self._held > self._most_held:
            raise Overloaded("Too many large bodies are coming in at once; try again.")


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
