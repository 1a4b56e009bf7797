"""One hostile request, byte for byte, with the manners of its client, and what became of it."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tests.http_worker import KEY

LEFT, GIVEN_UP, CUT = "left", "given up", "cut off"
"""Ends without an answer: by the attempt's own will, as its turn is over, by the worker."""
_KEPT = 256 * 1024
"""Bytes kept of an answer's beginning and of its end."""
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3})")
_CODE = re.compile(rb'"code"\s*:\s*"([a-z_]+)"')
_TOKENS = re.compile(rb'"(?:prompt_tokens|input_tokens|count)"\s*:\s*(\d+)')
_TOO_MANY = re.compile(rb"has (?:at least )?(\d+) tokens")


@dataclass(frozen=True, slots=True)
class Load:
    """What a request asks for apart from its tricks, so that honest ones can ask for as much."""

    route: str
    answer_tokens: int = 4
    answers: int = 1
    prompts: int = 1
    words: int = 0
    """Of each honest prompt."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A request to send.

    `piece`: bytes that are sent at a time (0: all), with `pause` seconds between two pieces.
    `leave_after`: seconds after which the client resets the connection.
    """

    label: str
    data: bytes
    load: Load
    piece: int = 0
    pause: float = 0.0
    leave_after: float | None = None

    @property
    def most_tokens(self) -> int:
        """An upper bound of its prompt's tokens."""
        return len(self.data) // self.load.prompts


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt ended: an error's code, a status, or LEFT, GIVEN_UP or CUT.

    `tokens`: those of its prompt, as far as the worker told them.
    """

    name: str
    tokens: int = 0


def posted(
    route: str,
    body: Mapping[str, Any] | bytes,
    label: str,
    *,
    headers: Mapping[str, str] | None = None,
    **more: Any,
) -> Attempt:
    """Return a POST of `body`, as JSON unless it is bytes. `more`: fields of the attempt."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {} if isinstance(body, bytes) else body
    prompt = fields.get("prompt")
    prompts = len(prompt) if isinstance(prompt, list) and isinstance(prompt[0], str) else 1
    load = Load(
        route,
        answer_tokens=_bounded(fields.get("max_tokens"), 4),
        answers=_bounded(fields.get("n"), 1),
        prompts=prompts,
    )
    return Attempt(label, head(route, len(data), headers) + data, load, **more)


def _bounded(value: object, otherwise: int) -> int:
    return value if isinstance(value, int) and 1 <= value <= 64 else otherwise


def head(route: str, length: int, headers: Mapping[str, str] | None = None) -> bytes:
    """Return a request's head. `headers` adds or replaces some; an empty one is left out."""
    lines = {
        "Host": "w",
        "Authorization": f"Bearer {KEY}",
        "Content-Type": "application/json",
        "Content-Length": str(length),
        "Connection": "close",
        **(headers or {}),
    }
    sent = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value)
    return f"POST {route} HTTP/1.1\r\n{sent}\r\n".encode()


async def send(port: int, attempt: Attempt, patience: float) -> Ending:
    """Send an attempt, and return how it ended, after `patience` seconds at the latest."""
    stay = patience if attempt.leave_after is None else attempt.leave_after
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(stay):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
            sending = asyncio.ensure_future(_write(writer, attempt))
            try:
                return _ending(await _answer(reader))
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
    except TimeoutError:
        return Ending(GIVEN_UP if attempt.leave_after is None else LEFT)
    except OSError:
        return Ending(CUT)
    finally:
        if writer is not None:
            _reset(writer)


async def _write(writer: asyncio.StreamWriter, attempt: Attempt) -> None:
    with suppress(OSError):  # refused before it was read: the answer says why
        for piece in _pieces(attempt):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(attempt.pause)


def _pieces(attempt: Attempt) -> Iterator[bytes]:
    size = attempt.piece or 2**20
    for begin in range(0, len(attempt.data), size):
        yield attempt.data[begin : begin + size]


async def _answer(reader: asyncio.StreamReader) -> bytes:
    """Return an answer, without its middle if it is long."""
    begun, ended = b"", b""
    with suppress(ConnectionError):  # after an answer that refused the rest of the body
        while part := await reader.read(2**16):
            if len(begun) < _KEPT:
                begun += part
            else:
                ended = (ended + part)[-_KEPT:]
    return begun + ended


def _ending(answer: bytes) -> Ending:
    status = _STATUS.match(answer)
    if status is None:
        return Ending(CUT)
    tokens = [*_TOKENS.findall(answer), *_TOO_MANY.findall(answer)]
    codes = _CODE.findall(answer)
    name = codes[-1].decode() if codes else status[1].decode()
    return Ending(name, max(map(int, tokens), default=0))


def _reset(writer: asyncio.StreamWriter) -> None:
    """Drop a connection, so that the worker learns at once that its client has left."""
    opened = writer.get_extra_info("socket")
    with suppress(OSError):
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
