"""Streams that show signs of life, and answers that nobody waits for any more."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import openai
import psutil
import pytest

from gguf_worker.api.http import connection
from gguf_worker.errors import GenerationFailed
from gguf_worker.events import Outcome
from gguf_worker.providers import GenerationRequest, Part, TextDelta
from tests.api_doors import MESSAGES, Bench
from tests.fakes import ScriptedProvider, stop, text_deltas
from tests.http_door import BODY, CHAT, application, client, posted, read_all, read_until, served
from tests.waiting import until

SIGN = ": keep-alive\n\n"
STREAM = {**BODY, "stream": True}


class Paced(ScriptedProvider):
    """Waits before each step of its script; `errors` are raised."""

    def __init__(self, *script: Part | Exception, pause: float) -> None:
        super().__init__()
        self._steps = script
        self._pause = pause

    async def answer(self, request: GenerationRequest) -> AsyncGenerator[Part, None]:
        for step in self._steps:
            await asyncio.sleep(self._pause)
            if isinstance(step, Exception):
                raise step
            yield step


def paced(*script: Part | Exception, pause: float = 0.1) -> Bench:
    return Bench(Paced(*script, pause=pause))


async def test_a_silent_stream_shows_signs_of_life_before_and_between_its_events() -> None:
    bench = paced(TextDelta("a", 1), TextDelta("b", 1), stop())
    async with client(application(bench, keep_alive=0.03)) as http:
        text = (await http.post(CHAT, json=STREAM)).text
    before, between, *_ = text.split('"content":"a"')
    assert before.startswith(SIGN)
    assert SIGN in between.split('"content":"b"')[0]
    assert text.endswith("data: [DONE]\n\n")
    assert all(part.startswith(("data: ", ":")) for part in text.split("\n\n")[:-1])


@pytest.mark.parametrize("route", ["/api/chat", "/api/generate"])
async def test_a_silent_stream_of_lines_shows_lines_without_text(route: str) -> None:
    bench = paced(TextDelta("a", 1), stop())
    body = {"messages": MESSAGES} if route.endswith("chat") else {"prompt": "Hi"}
    async with client(application(bench, keep_alive=0.03)) as http:
        response = await http.post(route, json=body)
    assert response.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in response.text.splitlines()]
    texts = [each.get("response", each.get("message", {}).get("content")) for each in lines]
    assert texts[0] == ""
    assert "".join(texts) == "a"
    assert [each["done"] for each in lines] == [False] * (len(lines) - 1) + [True]


async def test_a_failure_after_a_sign_of_life_is_a_line() -> None:
    bench = paced(GenerationFailed("no"))
    async with client(application(bench, keep_alive=0.02)) as http:
        response = await http.post("/api/chat", json={"messages": MESSAGES})
    assert json.loads(response.text.splitlines()[-1])["error"] == "no"


def test_the_openai_client_skips_signs_of_life() -> None:
    bench = paced(TextDelta("a", 1), TextDelta("b", 1), stop())
    messages: Any = MESSAGES
    with served(application(bench, keep_alive=0.03)) as port:
        base = f"http://127.0.0.1:{port}/v1"
        with openai.OpenAI(base_url=base, api_key="any", max_retries=0) as api:
            chunks = list(api.chat.completions.create(model="demo", messages=messages, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "ab"


async def test_a_stream_that_goes_on_shows_none() -> None:
    bench = paced(*[TextDelta("a", 1)] * 20, stop(), pause=0.01)
    async with client(application(bench, keep_alive=0.15)) as http:
        text = (await http.post(CHAT, json=STREAM)).text
    assert SIGN not in text


async def test_a_silent_answer_that_is_no_stream_shows_none() -> None:
    bench = paced(TextDelta("a", 1), stop())
    async with client(application(bench, keep_alive=0.02)) as http:
        response = await http.post(CHAT, json=BODY)
    assert response.json()["choices"][0]["message"]["content"] == "a"


async def test_a_failure_before_any_sign_has_its_status_and_a_later_one_is_an_event() -> None:
    for keep_alive, status in ((1.0, 500), (0.02, 200)):
        bench = paced(GenerationFailed("no"))
        async with client(application(bench, keep_alive=keep_alive)) as http:
            response = await http.post(CHAT, json=STREAM)
        assert response.status_code == status
        last = response.text.split("data: ")[-1]
        assert json.loads(last)["error"]["code"] == "generation_failed"
        assert bench.done.outcome is Outcome.ERROR


async def test_signs_of_life_can_be_switched_off() -> None:
    bench = paced(TextDelta("a", 1), TextDelta("b", 1), stop(), pause=0.02)
    async with client(application(bench, keep_alive=0.0)) as http:
        text = (await http.post(CHAT, json=STREAM)).text
    assert SIGN not in text
    assert text.endswith("data: [DONE]\n\n")


async def test_a_wrong_body_of_a_stream_has_its_status_at_once() -> None:
    async with client(application(Bench(ScriptedProvider()), keep_alive=0.01)) as http:
        assert (await http.post(CHAT, json={**STREAM, "temperature": -1})).status_code == 400


def test_a_client_that_went_away_during_the_signs_frees_its_request() -> None:
    bench = Bench(ScriptedProvider(asyncio.Event()))
    with served(application(bench, keep_alive=0.02)) as port:
        with posted(port, STREAM) as waiting:
            read_until(waiting, SIGN)
            read_until(waiting, SIGN)
        assert bench.provider.ended.wait(5)
    assert bench.done.outcome is Outcome.CANCELLED


class Torrent(ScriptedProvider):
    """An endless answer in large pieces; counts what was taken of it, and what runs."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = 0
        self.running = 0

    async def answer(self, request: GenerationRequest) -> AsyncGenerator[Part, None]:
        self.running += 1
        try:
            while True:
                self.taken += 1
                yield TextDelta("x" * 50_000, 1)
                await asyncio.sleep(0)
        finally:
            self.running -= 1


@contextmanager
def slow_readers(port: int, count: int) -> Iterator[list[socket.socket]]:
    """Clients that asked for a stream and read nothing, each with a small buffer."""
    with ExitStack() as opened:
        clients = []
        for _ in range(count):
            reader = opened.enter_context(socket.socket())
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reader.connect(("127.0.0.1", port))
            data = json.dumps(STREAM).encode()
            head = f"POST {CHAT} HTTP/1.1\r\nHost: w\r\nContent-Length: {len(data)}\r\n\r\n"
            reader.sendall(head.encode() + data)
            clients.append(reader)
        yield clients


def settled(torrent: Torrent, count: int) -> int:
    """The count of what was taken once all readers are stuck."""
    until(lambda: torrent.running == count)
    taken = -1
    while taken != torrent.taken:
        taken = torrent.taken
        time.sleep(0.3)  # time for what must not happen any more
    return taken


@pytest.mark.slow
def test_200_readers_that_do_not_read_hold_nobody_up_and_fill_no_memory() -> None:
    torrent = Torrent()
    bench = Bench(ScriptedProvider())
    with served(application(bench)) as port:
        url = f"http://127.0.0.1:{port}"
        httpx.get(f"{url}/v1/models")
        before = psutil.Process().memory_info().rss
        bench.provider = torrent
        with slow_readers(port, 200):
            taken = settled(torrent, 200)
            time.sleep(0.5)  # time for what must not happen
            assert torrent.taken == taken  # nothing more is asked of the provider
            assert psutil.Process().memory_info().rss - before < 200 * 2**20
            bench.provider = ScriptedProvider(text_deltas("quick"))
            began = time.monotonic()
            for _ in range(20):
                assert httpx.post(f"{url}{CHAT}", json=BODY, timeout=5).is_success
            assert time.monotonic() - began < 5
        until(lambda: torrent.running == 0)  # they vanished without reading a byte


def test_a_reader_that_takes_nothing_for_long_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "STALL_SECONDS", 0.2)
    torrent = Torrent()
    bench = Bench(ScriptedProvider())
    bench.provider = torrent
    with served(application(bench)) as port, slow_readers(port, 1) as (reader,):
        until(lambda: torrent.taken > 0 and torrent.running == 0)
        assert bench.done.outcome is Outcome.CANCELLED
        assert not read_all(reader).endswith("0\r\n\r\n")  # as a whole answer would
