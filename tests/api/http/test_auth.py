"""The door: keys, names, the health port, crowds, and pages from elsewhere."""

from __future__ import annotations

import hmac
from typing import Any

import pytest

from gguf_worker.api.http import auth
from tests.api_doors import Bench
from tests.fakes import ScriptedProvider, text_deltas
from tests.http_door import BODY, CHAT, application, client

KEYS = ["sesame", "tahini", "şifre"]
OPEN = ["/", "/ping", "/health", "/metrics", "/openapi.json"]


def bench() -> Bench:
    return Bench(ScriptedProvider(text_deltas("a")))


def raw(**headers: str) -> Any:
    return {name.replace("_", "-"): value.encode() for name, value in headers.items()}


@pytest.mark.parametrize("key", KEYS)
async def test_each_key_opens_as_bearer_or_in_its_own_header(key: str) -> None:
    async with client(application(bench(), api_keys=KEYS)) as http:
        for headers in (raw(authorization=f"Bearer {key}"), raw(x_api_key=key)):
            assert (await http.post(CHAT, json=BODY, headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"x_api_key": ""},
        {"x_api_key": "sesam"},
        {"x_api_key": "sesame,tahini"},
        {"x_api_key": "Bearer sesame"},
        {"authorization": "sesame"},
        {"authorization": "Bearer sesame tahini"},
        {"cookie": "api_key=sesame"},
    ],
)
async def test_anything_but_one_whole_key_opens_nothing(headers: dict[str, str]) -> None:
    async with client(application(bench(), api_keys=KEYS)) as http:
        response = await http.post(CHAT, json=BODY, headers=raw(**headers))
    assert response.status_code == 401
    assert "X-Api-Key" in response.json()["error"]["message"]


async def test_a_wrong_bearer_beside_a_right_key_opens() -> None:
    """Some clients cannot leave out the one that they know."""
    async with client(application(bench(), api_keys=KEYS)) as http:
        headers = raw(authorization="Bearer unused", x_api_key="tahini")
        assert (await http.post(CHAT, json=BODY, headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "path",
    ["/tokenize", "/detokenize", "/v1", "//v1/models", "/new", "/ping/x", "/props", "/version"],
)
async def test_a_route_that_is_not_named_as_open_needs_a_key(path: str) -> None:
    async with client(application(bench(), api_keys=KEYS)) as http:
        assert (await http.get(path)).status_code == 401


@pytest.mark.parametrize("path", OPEN)
async def test_what_is_open_needs_no_key(path: str) -> None:
    async with client(application(bench(), api_keys=KEYS)) as http:
        assert (await http.get(path)).status_code == 200


async def test_every_key_is_compared_whichever_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return hmac.compare_digest(one, other)

    class Watched:
        compare_digest = staticmethod(compare)

    monkeypatch.setattr(auth, "hmac", Watched)
    async with client(application(bench(), api_keys=KEYS)) as http:
        for key in (*KEYS, "wrong", "x" * 1000):
            compared.clear()
            await http.get("/v1/models", headers=raw(x_api_key=key))
            assert len(compared) == len(KEYS)
            assert {len(each) for pair in compared for each in pair} == {32}


async def test_on_the_health_port_there_is_only_health() -> None:
    app = application(bench(), health_port=9000)
    async with client(app, headers={"host": "w:9000"}) as http:
        # httpx says the port of the address that is asked for.
        for path, status in (("/ping", 200), ("/health", 200), ("/v1/models", 404), ("/", 404)):
            response = await http.get(f"http://w:9000{path}")
            assert response.status_code == status
            assert (await http.get(f"http://w:8000{path}")).status_code == 200


async def test_a_connection_too_many_is_refused_but_for_health() -> None:
    app = application(bench())

    async def crowded(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "state": {auth.CROWDED: True}}, receive, send)

    async with client(crowded) as http:
        response = await http.post(CHAT, json=BODY)
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "overloaded"
        assert response.headers["retry-after"] == "1"
        assert (await http.get("/ping")).status_code == 200


PREFLIGHT = {
    "origin": "https://chat.example",
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization, content-type, x-stainless-lang",
}


async def test_without_origins_no_page_from_elsewhere_may_call() -> None:
    async with client(application(bench())) as http:
        asked = await http.options(CHAT, headers=PREFLIGHT)
        answered = await http.post(CHAT, json=BODY, headers={"origin": "https://chat.example"})
    assert asked.status_code == 405
    for response in (asked, answered):
        assert not [name for name in response.headers if name.startswith("access-control")]


@pytest.mark.parametrize("origins", [["https://chat.example", "https://b.example"], ["*"]])
async def test_pages_of_the_named_origins_may_call_and_ask_first_without_a_key(
    origins: list[str],
) -> None:
    app = application(bench(), api_keys=KEYS, origins=origins)
    async with client(app) as http:
        asked = await http.options(CHAT, headers=PREFLIGHT)
        refused = await http.post(CHAT, json=BODY, headers={"origin": "https://chat.example"})
    assert asked.status_code == 200
    assert "x-stainless-lang" in asked.headers["access-control-allow-headers"]
    assert "POST" in asked.headers["access-control-allow-methods"]
    assert refused.status_code == 401
    for response in (asked, refused):
        assert response.headers["access-control-allow-origin"] in ("*", "https://chat.example")
        assert "access-control-allow-credentials" not in response.headers
    assert "x-request-id" in refused.headers["access-control-expose-headers"]


async def test_a_page_of_another_origin_may_not_call() -> None:
    async with client(application(bench(), origins=["https://chat.example"])) as http:
        headers = {**PREFLIGHT, "origin": "https://evil.example"}
        asked = await http.options(CHAT, headers=headers)
    assert asked.status_code == 400
    assert "access-control-allow-origin" not in asked.headers
