"""Settings of the HTTP front, in a worker that is started with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.http_worker import free_port, http_worker

pytestmark = pytest.mark.e2e


@dataclass(frozen=True)
class Front:
    """A worker's addresses and its log."""

    base: str
    health_base: str
    log: Path


@pytest.fixture(scope="module")
def front(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    port = free_port()
    log = tmp_path_factory.mktemp("front") / "log"
    settings = {
        "API_KEY": "key-one,\nkey-two",
        "CORS_ORIGINS": "https://chat.example",
        "PORT_HEALTH": str(port),
        "LOG_LEVEL": "debug",
    }
    with http_worker(demo_model, log, **settings) as served:
        yield Front(served.base, f"http://127.0.0.1:{port}", log)


def test_a_load_balancer_may_ask_for_health_on_a_port_of_its_own(front: Front) -> None:
    assert httpx.get(f"{front.health_base}/ping").status_code == 200
    assert httpx.get(f"{front.health_base}/health").json()["state"] == "ready"
    assert httpx.get(f"{front.health_base}/v1/models").status_code == 404


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"x-api-key": "key-one"}, 200),
        ({"authorization": "Bearer key-two"}, 200),
        ({"x-api-key": "key-three"}, 401),
        ({}, 401),
    ],
)
def test_any_of_the_keys_opens_and_none_is_logged(
    front: Front, headers: dict[str, str], status: int
) -> None:
    assert httpx.get(f"{front.base}/v1/models", headers=headers).status_code == status
    assert "key-" not in front.log.read_text()


def test_a_page_of_a_named_origin_may_call(front: Front) -> None:
    headers = {"origin": "https://chat.example", "access-control-request-method": "POST"}
    answer = httpx.options(f"{front.base}/v1/chat/completions", headers=headers)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://chat.example"
