from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from benchmarks.client import PATH, Client, Refused, read_answer

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Serve = Callable[[Handler], Awaitable[str]]


def event(**fields: Any) -> bytes:
    return f"data: {json.dumps(fields)}\n\n".encode()


def chunk(text: str | None = None, finish: str | None = None) -> bytes:
    delta = {} if text is None else {"content": text}
    return event(choices=[{"index": 0, "delta": delta, "finish_reason": finish}])


DONE = b"data: [DONE]\n\n"


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Return a function that serves one handler on this machine and gives its address."""
    runners: list[web.AppRunner] = []

    async def start(handler: Handler) -> str:
        app = web.Application()
        app.router.add_post(PATH, handler)
        runner = web.AppRunner(app)
        runners.append(runner)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    yield start
    for runner in runners:
        await runner.cleanup()


async def test_an_answers_times_are_those_at_which_its_text_arrived(serve: Serve) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for part in (chunk(), chunk("a"), chunk("b"), chunk(finish="length") + DONE):
            await asyncio.sleep(0.05)  # the times between these are what is looked at
            await response.write(part)
        return response

    async with Client(await serve(handler), {}) as client:
        answer = await client.ask([{"role": "user", "content": "Hi"}], 2)
    assert answer.text == "ab"
    assert 0.09 < answer.ttft < 1
    assert len(answer.gaps) == 1
    assert answer.gaps[0] > 0.02
    assert answer.ended - answer.began > 0.15


async def test_a_body_asks_for_a_greedy_stream_and_has_the_servers_extra_fields(
    serve: Serve,
) -> None:
    bodies = []

    async def handler(request: web.Request) -> web.StreamResponse:
        bodies.append(await request.json())
        return web.Response(body=chunk("a", "length") + DONE)

    async with Client(await serve(handler), {"ignore_eos": True}) as client:
        await client.ask([{"role": "user", "content": "Hi"}], 7)
        await client.ask([{"role": "user", "content": "Hi"}], 7, n=4)
    expected = {"temperature": 0, "stream": True, "max_tokens": 7, "ignore_eos": True}
    assert expected.items() <= bodies[0].items()
    assert "n" not in bodies[0]
    assert bodies[1]["n"] == 4


async def test_a_refusal_has_its_status_and_reason(serve: Serve) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(status=400, text="n is not supported")

    async with Client(await serve(handler), {}) as client:
        with pytest.raises(Refused, match="status 400: n is not supported"):
            await client.ask([], 1)


async def test_a_port_without_a_server_is_a_refusal() -> None:
    async with Client("http://127.0.0.1:9", {}) as client:
        with pytest.raises(Refused, match="Connect"):
            await client.ask([], 1)


def read(*reads: bytes, limit: int = 64) -> Any:
    return read_answer(0.0, 9.0, list(enumerate(reads)), limit)


def test_events_cut_anywhere_are_put_together() -> None:
    whole = chunk("ä") + chunk("b") + DONE
    answer = read(*(whole[n : n + 1] for n in range(len(whole))))
    assert answer.text == "äb"
    assert answer.tokens == 2


def test_tokens_are_those_that_the_server_counted() -> None:
    details = {"cached_tokens": 5}
    usage = {"completion_tokens": 3, "prompt_tokens": 9, "prompt_tokens_details": details}
    answer = read(chunk("abc", "stop"), event(choices=[], usage=usage), DONE)
    assert (answer.tokens, answer.prompt_tokens, answer.cached_tokens) == (3, 9, 5)


def test_tokens_of_several_choices_are_added_up() -> None:
    usage = event(choices=[], usage={"completion_tokens": 8, "prompt_tokens": 9})
    assert read(chunk("a", "length"), usage, usage, DONE).tokens == 16


def test_uncounted_tokens_are_all_when_the_answer_ran_to_its_limit_and_else_its_chunks() -> None:
    assert read(chunk("a"), chunk("b"), chunk(finish="length"), DONE, limit=64).tokens == 64
    assert read(chunk("a"), chunk("b"), chunk(finish="stop"), DONE, limit=64).tokens == 2


def test_a_stream_that_breaks_off_or_fails_is_a_refusal() -> None:
    with pytest.raises(Refused, match="before it was done"):
        read(chunk("a"))
    with pytest.raises(Refused, match="out of memory"):
        read(chunk("a"), event(error={"message": "out of memory"}), DONE)
