"""Bodies: some are refused, and what was held is let go."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

from gguf_worker.api.http.bodies import MAX_BODY, Bodies
from gguf_worker.api.reading import MAX_TOKENS
from gguf_worker.errors import DeadlineExceeded, InvalidRequest, Overloaded, PayloadTooLarge

GOOD = b'{"a": 1}'


class Hold:
    """A pause of a body that is `reached`, and lasts until it is `over`."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.over = asyncio.Event()


Part = bytes | float | Hold | None


def request(*parts: Part) -> Request:
    """A request whose body comes in parts: bytes, pauses (in seconds, or held), None for the
    client's end."""

    async def messages() -> AsyncIterator[dict[str, Any]]:
        for part in parts:
            if isinstance(part, float):
                await asyncio.sleep(part)
            elif isinstance(part, Hold):
                part.reached.set()
                await part.over.wait()
            elif part is None:
                yield {"type": "http.disconnect"}
            else:
                yield {"type": "http.request", "body": part, "more_body": True}
        yield {"type": "http.request", "body": b"", "more_body": False}

    coming = messages()
    return Request({"type": "http", "method": "POST", "headers": []}, lambda: anext(coming))


async def test_a_body_is_one_json_object() -> None:
    assert (await Bodies().read(request(GOOD[:3], GOOD[3:]), 5)).fields == {"a": 1}


DRIPPING: list[Part] = [b" ", 0.03] * 9

FAULTS: Sequence[tuple[tuple[Part, ...], type[Exception]]] = [
    ((b"[1]",), InvalidRequest),
    ((b"{",), InvalidRequest),
    ((b" " * 11,), PayloadTooLarge),
    ((b" " * 6, b" " * 6), PayloadTooLarge),
    ((GOOD[:3], 5.0, GOOD[3:]), DeadlineExceeded),
    ((*DRIPPING, GOOD), DeadlineExceeded),
    ((GOOD[:3], None), ClientDisconnect),
]


@pytest.mark.parametrize(("parts", "error"), FAULTS)
async def test_a_body_that_is_not_is_refused_and_let_go(
    parts: tuple[Part, ...], error: type[Exception]
) -> None:
    bodies = Bodies(most=10, most_held=12, free=0, silence=0.05)
    for _ in range(3):  # were any of it still held, the last would be refused for that
        with pytest.raises(error):
            await bodies.read(request(*parts), 0.15)
    assert (await bodies.read(request(GOOD), 5)).fields == {"a": 1}


@pytest.mark.parametrize("unit", [b"[],", b"{},", b'"k":0,', b'"a",'])
async def test_a_body_of_millions_of_parts_is_refused_before_they_are_made(unit: bytes) -> None:
    """32 MiB of empty lists took 3 seconds and 700 MB to read, for which all streams waited."""
    opening, end = (b'{"a":{', b'"z":0}}') if b":" in unit else (b'{"a":[', b"0]}")
    data = opening + unit * (MAX_BODY // len(unit) - 10) + end
    with pytest.raises(InvalidRequest, match="separate parts"):
        await Bodies().read(request(data), 60)


async def test_a_long_text_and_a_long_list_of_tokens_are_no_such_bodies() -> None:
    text, tokens = "the sea, and so on " * 1_500_000, [0] * MAX_TOKENS
    for value in (text, tokens):
        read = await Bodies().read(request(json.dumps({"a": value}).encode()), 60)
        assert read.fields == {"a": value}


async def test_a_pause_in_a_body_is_bounded_whatever_its_time() -> None:
    with pytest.raises(DeadlineExceeded):
        await asyncio.wait_for(Bodies(silence=0.05).read(request(b"{", 60.0), 600), 5)


async def test_all_bodies_together_are_bounded_and_small_ones_go_on_after() -> None:
    bodies = Bodies(most=100, most_held=160, free=10, silence=5)
    holds = [Hold(), Hold()]
    slow = [asyncio.create_task(bodies.read(request(b" " * 70, hold, GOOD), 5)) for hold in holds]
    for hold in holds:
        await hold.reached.wait()
    with pytest.raises(Overloaded):
        await bodies.read(request(b" " * 30), 5)
    small = await bodies.read(request(GOOD), 5)
    assert small.fields == {"a": 1}
    small.release()
    for hold in holds:
        hold.over.set()
    assert [body.fields for body in await asyncio.gather(*slow)] == [{"a": 1}] * 2


async def test_a_body_is_held_until_its_request_has_ended() -> None:
    bodies = Bodies(most=100, most_held=150, free=10)
    first = await bodies.read(request(b" " * 90, GOOD), 5)
    with pytest.raises(Overloaded):
        await bodies.read(request(b" " * 90, GOOD), 5)
    asked = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asked.wait()
        raise ClientDisconnect

    async def nothing(*_: object) -> Any:
        raise AssertionError

    answering = asyncio.ensure_future(first.during(app)({}, nothing, nothing))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await bodies.read(request(b" " * 90, GOOD), 5)
    asked.set()
    with pytest.raises(ClientDisconnect):
        await answering
    assert (await bodies.read(request(b" " * 90, GOOD), 5)).fields == {"a": 1}


async def test_large_bodies_keep_no_small_one_out() -> None:
    bodies = Bodies(most=100, most_held=50, free=10)
    await bodies.read(request(b" " * 40, GOOD), 5)
    for _ in range(20):
        assert (await bodies.read(request(GOOD), 5)).fields == {"a": 1}
