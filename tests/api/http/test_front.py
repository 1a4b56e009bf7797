from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from gguf_worker.api.http.bodies import Bodies
from gguf_worker.errors import EngineInterrupted, Overloaded
from gguf_worker.events import Outcome
from gguf_worker.providers import GenerationRequest, ModelCard, Part, TextDelta
from tests.api_doors import MESSAGES, Bench
from tests.fakes import ScriptedProvider, stop, text_deltas
from tests.http_door import BODY, CHAT, application, client, posted, read_until, served
from tests.http_worker import free_port
from tests.waiting import until


def ends_soon(bench: Bench) -> None:
    assert bench.provider.ended.wait(5)
    until(lambda: bench.facts)


async def test_a_chat_is_answered() -> None:
    bench = Bench(ScriptedProvider(text_deltas("Hel", "lo")))
    async with client(application(bench)) as http:
        response = await http.post(CHAT, json=BODY)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.json()["choices"][0]["message"]["content"] == "Hello"
    assert bench.done.route == CHAT


async def test_a_stream_has_the_headers_that_keep_it_one() -> None:
    async with client(application(Bench(ScriptedProvider(text_deltas("a"))))) as http:
        response = await http.post(CHAT, json={**BODY, "stream": True})
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    assert response.text.endswith("data: [DONE]\n\n")


async def test_the_deadline_begins_with_the_request() -> None:
    bench = Bench(ScriptedProvider(text_deltas("a")))
    async with client(application(bench, default_timeout=30, now=lambda: 500.0)) as http:
        await http.post(CHAT, json=BODY)
    assert bench.provider.requests[0].deadline == 530.0


@pytest.mark.parametrize("name", ["demo", "gpt-4o"])
async def test_a_model_is_found_by_its_name(name: str) -> None:
    async with client(application(Bench(ScriptedProvider()))) as http:
        assert (await http.get("/v1/models")).json()["data"][0]["id"] == "demo"
        assert (await http.get(f"/v1/models/{name}")).json()["id"] == "demo"


@pytest.mark.parametrize(
    ("state", "ping", "health"),
    [
        ("starting", 204, 503),
        ("ready", 200, 200),
        ("degraded", 200, 200),
        ("draining", 503, 503),
        ("dead", 503, 503),
    ],
)
async def test_ping_and_health_tell_the_state(state: str, ping: int, health: int) -> None:
    bench = Bench(ScriptedProvider())
    async with client(application(bench, state=lambda: state)) as http:
        assert (await http.get("/ping")).status_code == ping
        response = await http.get("/health")
    assert response.status_code == health
    assert response.json() == {"state": "ready", "load": None}
    assert bench.facts == []


async def test_metrics_are_prometheus_text() -> None:
    async with client(application(Bench(ScriptedProvider()))) as http:
        response = await http.get("/metrics")
    assert response.text == "up 1\n"
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"


@pytest.mark.parametrize(
    "authorization", [None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic sesame", "Bearer ş"]
)
@pytest.mark.parametrize("path", [CHAT, "/v1/models", "/v1/nothing"])
async def test_without_the_key_nothing_under_v1_answers(
    path: str, authorization: str | None
) -> None:
    bench = Bench(ScriptedProvider(text_deltas("a")))
    headers: dict[bytes, bytes] = {}
    if authorization is not None:
        headers[b"authorization"] = authorization.encode()
    async with client(application(bench, api_keys=["sesame"])) as http:
        response = await http.post(path, json=BODY, headers=headers)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.json()["error"]["code"] == "invalid_api_key"
    assert bench.provider.requests == []


@pytest.mark.parametrize("key", ["sesame", "şifre"])
async def test_with_the_key_it_answers_and_health_needs_none(key: str) -> None:
    bench = Bench(ScriptedProvider(text_deltas("a")))
    headers = {b"authorization": f"bearer {key}".encode()}
    async with client(application(bench, api_keys=[key])) as http:
        assert (await http.post(CHAT, json=BODY, headers=headers)).is_success
        for path in ("/ping", "/health", "/metrics"):
            assert (await http.get(path)).status_code == 200


async def test_a_request_id_is_returned_and_goes_with_the_request() -> None:
    bench = Bench(ScriptedProvider(text_deltas("a")))
    async with client(application(bench)) as http:
        response = await http.post(CHAT, json=BODY, headers={"x-request-id": "trace-7"})
    assert response.headers["x-request-id"] == "trace-7"
    assert bench.done.job_id == "trace-7"
    assert bench.done.request_id != "trace-7"


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, '"><script>'])
@pytest.mark.parametrize("path", ["/v1/models", "/nothing"])
async def test_an_odd_request_id_is_replaced(path: str, given: str) -> None:
    async with client(application(Bench(ScriptedProvider()))) as http:
        response = await http.get(path, headers={"x-request-id": given})
    assert len(response.headers["x-request-id"]) == 32


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b'{"a": "\xff"}', "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b'"text"', "application/json", 400),
        (b"null", "application/json", 400),
        (b'{"messages": []}', "application/x-www-form-urlencoded", 400),
        (b'{"messages": []}', "text/plain", 400),
        (b" " * 5001, "application/json", 413),
    ],
)
async def test_a_bad_body_is_refused_and_reported(content: bytes, kind: str, status: int) -> None:
    bench = Bench(ScriptedProvider())
    async with client(application(bench, bodies=Bodies(most=5000))) as http:
        response = await http.post(CHAT, content=content, headers={"content-type": kind})
    assert response.status_code == (413 if len(content) > 5000 else status)
    assert bench.done.outcome is Outcome.ERROR


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON; charset=utf-8"])
async def test_json_is_known_by_its_type(kind: str) -> None:
    async with client(application(Bench(ScriptedProvider(text_deltas("a"))))) as http:
        response = await http.post(CHAT, content=json.dumps(BODY), headers={"content-type": kind})
    assert response.is_success


@pytest.mark.parametrize(("retry_after", "header"), [(None, "1"), (0.2, "1"), (7.1, "8")])
async def test_a_refusal_that_may_pass_says_when_to_try_again(
    retry_after: float | None, header: str
) -> None:
    bench = Bench(ScriptedProvider(Overloaded("The queue is full.", retry_after=retry_after)))
    async with client(application(bench)) as http:
        response = await http.post(CHAT, json=BODY)
    assert response.status_code == 503
    assert response.headers["retry-after"] == header


@pytest.mark.parametrize("path", ["/", "/v1/models", "/v1/models/demo", "/health", "/props"])
@pytest.mark.parametrize("keys", [[], ["sesame"]])
async def test_a_head_is_the_get_without_a_body(path: str, keys: list[str]) -> None:
    headers = {"authorization": "Bearer sesame"}
    with served(application(Bench(ScriptedProvider()), api_keys=keys)) as port:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
            head, get = (
                await http.head(path, headers=headers),
                await http.get(path, headers=headers),
            )
    assert head.status_code == get.status_code == 200
    assert (head.content, bool(get.content)) == (b"", True)
    assert head.headers["content-length"] == get.headers["content-length"]


@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat/completions/",
        "//v1/chat/completions",
        "/v1//chat//completions//",
    ],
)
async def test_slashes_too_many_are_none(path: str) -> None:
    bench = Bench(ScriptedProvider(text_deltas("a")))
    app = application(bench, api_keys=["sesame"])
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport) as http:
        assert (await http.post(f"http://worker{path}", json=BODY)).status_code == 401
        headers = {"x-api-key": "sesame"}
        answer = await http.post(f"http://worker{path}", json=BODY, headers=headers)
    assert answer.status_code == 200
    assert bench.reports[-1].route == CHAT


@pytest.mark.parametrize("path", ["/v1/models/", "//v1/models", "/v1//models/demo/", "/health/"])
async def test_slashes_too_many_are_none_in_a_get(path: str) -> None:
    async with client(application(Bench(ScriptedProvider()))) as http:
        assert (await http.get(f"http://worker{path}")).status_code == 200


async def test_a_models_name_keeps_its_slashes() -> None:
    name = "https://models.test/sea.gguf"
    bench = Bench(ScriptedProvider(), cards=[ModelCard("sea", (name,))])
    async with client(application(bench)) as http:
        assert (await http.get(f"/v1/models/{name}")).json()["id"] == "sea"


async def test_facts_that_other_servers_tell() -> None:
    async with client(application(Bench(ScriptedProvider()))) as http:
        properties = (await http.get("/props")).json()
        assert properties["default_generation_settings"]["n_ctx"] == 2048
        assert set((await http.get("/version")).json()) == {"version"}


async def test_a_wrong_method_names_the_right_one() -> None:
    async with client(application(Bench(ScriptedProvider()))) as http:
        response = await http.get(CHAT)
    assert response.status_code == 405
    assert response.headers["allow"] == "POST"
    assert "use POST" in response.json()["error"]["message"]


def broken() -> str:
    raise ValueError("secret")


async def test_a_bug_in_the_front_itself_is_one_neutral_error() -> None:
    async with client(application(Bench(ScriptedProvider()), state=broken)) as http:
        response = await http.get("/ping")
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal_error"
    assert "secret" not in response.text


async def test_a_bug_is_shown_to_pages_of_other_origins_and_has_a_name() -> None:
    app = application(Bench(ScriptedProvider()), state=broken, origins=["https://chat.example"])
    async with client(app) as http:
        headers = {"origin": "https://chat.example", "x-request-id": "trace-7"}
        response = await http.get("/ping", headers=headers)
    assert response.status_code == 500
    assert response.headers["access-control-allow-origin"] == "https://chat.example"
    assert response.headers["x-request-id"] == "trace-7"


async def test_a_bug_is_raised_for_whoever_logs_it() -> None:
    app = application(Bench(ScriptedProvider()), state=broken)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://w") as http:
        with pytest.raises(ValueError, match="secret"):
            await http.get("/ping")


async def test_a_body_that_does_not_come_is_not_waited_for_longer_than_the_request_may_last() -> (
    None
):
    bench = Bench(ScriptedProvider())

    async def stalled() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    app = application(bench, default_timeout=0.05)
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    parts = stalled()

    async def receive() -> Any:
        return {"type": "http.request", "body": await anext(parts), "more_body": True}

    scope = {
        "type": "http", "method": "POST", "path": CHAT, "raw_path": CHAT.encode(),
        "query_string": b"",
        "headers": [], "http_version": "1.1", "scheme": "http", "root_path": "",
    }  # fmt: skip
    await app(scope, receive, send)
    assert sent[0]["status"] == 504
    assert bench.done.code == "deadline_exceeded"


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_while_a_token_is_awaited_frees_its_request(stream: bool) -> None:
    bench = Bench(ScriptedProvider(TextDelta("a", 1), asyncio.Event()))
    with served(application(bench)) as port:
        with posted(port, {**BODY, "stream": stream}) as connection:
            assert bench.provider.parked.wait(5)
            if stream:
                read_until(connection, '"content":"a"')
            assert not bench.provider.ended.is_set()
        ends_soon(bench)
    assert bench.done.outcome is Outcome.CANCELLED
    assert bench.provider.closed == 1


def test_a_client_that_goes_away_mid_stream_frees_its_request() -> None:
    class Endless(ScriptedProvider):
        async def answer(self, request: GenerationRequest) -> AsyncGenerator[Part, None]:
            try:
                while True:
                    await asyncio.sleep(0.001)
                    yield TextDelta("word ", 1)
            finally:
                ended.set()

    ended = threading.Event()
    bench = Bench(Endless())
    with served(application(bench)) as port:
        with posted(port, {**BODY, "stream": True}) as connection:
            read_until(connection, "word")
        assert ended.wait(5)
    assert bench.done.outcome is Outcome.CANCELLED


def test_a_reader_that_stops_reading_holds_nobody_else_up() -> None:
    stuck = Bench(ScriptedProvider([TextDelta("x" * 50_000, 1)] * 200, stop()))
    with served(application(stuck)) as port, posted(port, {**BODY, "stream": True}) as slow:
        select.select([slow], [], [], 5)
        for _ in range(20):
            response = httpx.get(f"http://127.0.0.1:{port}/v1/models", timeout=5)
            assert response.is_success
        assert not stuck.provider.ended.is_set()


def test_two_requests_share_a_connection() -> None:
    bench = Bench(ScriptedProvider(text_deltas("a")))
    with served(application(bench)) as port, httpx.Client(timeout=5) as http:
        for stream in (True, False, True):
            url = f"http://127.0.0.1:{port}{CHAT}"
            assert http.post(url, json={**BODY, "stream": stream}).is_success
    assert [each.outcome for each in bench.reports] == [Outcome.STOP] * 3


def test_the_first_delta_is_sent_before_the_second_is_there() -> None:
    bench = Bench(ScriptedProvider(TextDelta("first", 1), asyncio.Event()))
    with served(application(bench)) as port, posted(port, {**BODY, "stream": True}) as connection:
        text = read_until(connection, "first")
        assert '"role":"assistant"' in text
        assert not bench.provider.ended.is_set()


def with_openai(port: int) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="any", max_retries=0)


def test_the_openai_client_chats_streams_completes_and_lists() -> None:
    with served(application(Bench(ScriptedProvider(text_deltas("Mer", "haba"))))) as port:
        api = with_openai(port)
        messages: Any = MESSAGES
        answer = api.chat.completions.create(model="demo", messages=messages)
        assert answer.choices[0].message.content == "Merhaba"
        stream = api.chat.completions.create(
            model="demo", messages=messages, stream=True, stream_options={"include_usage": True}
        )
        chunks = list(stream)
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "Merhaba"
        assert chunks[-1].usage
        texts = api.completions.create(model="demo", prompt="Hi", stream=True)
        assert "".join(chunk.choices[0].text for chunk in texts) == "Merhaba"
        assert [model.id for model in api.models.list()] == ["demo"]
        assert api.models.retrieve("demo").id == "demo"
        api.close()


def test_the_openai_client_understands_our_errors() -> None:
    provider = ScriptedProvider(EngineInterrupted("The engine stopped; ask again."))
    messages: Any = MESSAGES
    with served(application(Bench(provider))) as port:
        api = with_openai(port)
        with pytest.raises(openai.InternalServerError) as caught:
            api.chat.completions.create(model="demo", messages=messages)
        assert caught.value.code == "engine_interrupted"
        with pytest.raises(openai.NotFoundError, match="serves 'demo'"):
            api.chat.completions.create(model="other", messages=messages)
        with pytest.raises(openai.BadRequestError) as bad:
            api.chat.completions.create(model="demo", messages=messages, n=99)
        assert bad.value.param == "n"
        provider.script.insert(0, TextDelta("a", 1))
        with pytest.raises(openai.APIError, match="ask again"):
            list(api.chat.completions.create(model="demo", messages=messages, stream=True))
        api.close()


SERVER = """
import asyncio, sys
from gguf_worker.api import Gateway
from gguf_worker.api.http import build_http, serve
from gguf_worker.generation import Usage
from gguf_worker.providers import Finish, ModelCard, TextDelta

class Slow:
    async def answer(self, generation):
        for n in range(10):
            yield TextDelta(f"word{n} ", 1)
            await asyncio.sleep(0.05)
        yield Finish("stop", Usage(1, 10))

gateway = Gateway(lambda name: Slow(), lambda: [ModelCard("demo")], health=dict, metrics=str,
                  observe=lambda event: None, cold=lambda name: None)
app = build_http(gateway, state=lambda: "ready", default_timeout=60)
serve(app, host="127.0.0.1", port=int(sys.argv[1]), grace=10,
      on_shutdown=lambda: print("draining", flush=True))
print("ended", flush=True)
"""


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/ping").is_success
    except httpx.TransportError:
        return False


@contextmanager
def process(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    port = free_port()
    script = tmp_path / "server.py"
    script.write_text(SERVER)
    running = subprocess.Popen(
        [sys.executable, str(script), str(port)], stdout=subprocess.PIPE, text=True, env=os.environ
    )
    try:
        until(lambda: answers(port))
        yield running, port
    finally:
        running.kill()
        running.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_a_running_stream_finish_and_then_the_program_goes_on(
    tmp_path: Path, number: signal.Signals
) -> None:
    with process(tmp_path) as (running, port), posted(port, {**BODY, "stream": True}) as connection:
        read_until(connection, "word0")
        running.send_signal(number)
        text = read_until(connection, "[DONE]")
        assert "word9" in text
        output, _ = running.communicate(timeout=10)
    assert output.split() == ["draining", "ended"]
    assert running.returncode == 0


@pytest.mark.slow
def test_a_signal_that_comes_before_the_server_listens_is_not_lost(tmp_path: Path) -> None:
    script = tmp_path / "server.py"
    early = "import os, signal; import uvicorn; run = uvicorn.Server.run\n"
    early += "def late(self, **more): os.kill(os.getpid(), signal.SIGTERM); run(self, **more)\n"
    early += "uvicorn.Server.run = late\n"
    script.write_text(early + SERVER)
    done = subprocess.run(
        [sys.executable, str(script), "0"], capture_output=True, text=True, timeout=20
    )
    assert done.stdout.split() == ["draining", "ended"], done.stderr
    assert done.returncode == 0
