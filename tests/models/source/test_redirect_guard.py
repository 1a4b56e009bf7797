from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx2
import pytest

from gguf_worker.errors import ConfigError
from gguf_worker.models.source.addresses import NotPublic
from gguf_worker.models.source.direct import DirectConnection, Route
from gguf_worker.models.source.redirect_guard import RedirectGuard
from gguf_worker.models.source.remote import Transient
from tests.fake_hub import FakeHub
from tests.fake_web import FakeWeb, make_certificate


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A server that everything is said to go by."""
    for name in ("no_proxy", "NO_PROXY", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with FakeHub() as fake:
        monkeypatch.setenv("http_proxy", fake.url)
        yield fake


def _get(guard: RedirectGuard, url: str) -> httpx2.Response:
    with httpx2.Client(transport=guard) as client:
        return client.get(url)


def test_https_is_not_left() -> None:
    with pytest.raises(NotPublic, match="without https"):
        _get(RedirectGuard("https://hub.test"), "http://hub.test/a")


def test_a_name_is_resolved_once_and_tls_is_of_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = make_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    asked: list[str] = []

    def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"]

    guard = RedirectGuard("https://hub.test", resolve=resolve, allowed=lambda address: True)
    with FakeWeb(certificate, b"content") as server:
        assert _get(guard, server.url("/m.gguf", "cdn.test")).content == b"content"
        assert server.requests[0].host == f"cdn.test:{server.port}"
        with pytest.raises(httpx2.ConnectError, match="certificate"):
            _get(guard, server.url("/m.gguf", "stranger.test"))
    assert asked == ["cdn.test", "stranger.test"]


def test_a_proxy_of_the_environment_is_used_and_resolves_names_itself(proxy: FakeHub) -> None:
    guard = RedirectGuard("http://hub.test", resolve=lambda host, port: pytest.fail("asked here"))
    for host in ("hub.test", "cdn.test"):
        assert _get(guard, f"http://{host}/a").status_code == 302
    assert [seen.name for seen in proxy.requests] == ["hub.test", "cdn.test"]


@pytest.mark.parametrize("host", ["169.254.169.254", "2852039166", "169.254.169.254.", "localhost"])
def test_a_proxy_is_not_asked_for_a_private_address(proxy: FakeHub, host: str) -> None:
    with pytest.raises(NotPublic):
        _get(RedirectGuard("http://hub.test"), f"http://{host}/latest")
    assert proxy.requests == []


def test_a_proxy_of_another_kind_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("all_proxy", "socks5://me:secret@127.0.0.1:1")
    with pytest.raises(ConfigError, match="is of socks5, which is not supported") as refused:
        _get(RedirectGuard("http://hub.test"), "http://hub.test/a")
    assert "secret" not in refused.value.message


def test_a_host_is_asked_at_its_next_address_where_one_cannot_be_reached() -> None:
    def resolve(host: str, port: int) -> list[str]:
        return ["::1", "127.0.0.1"]  # the server listens at the second only

    with FakeHub() as fake:
        guard = RedirectGuard("http://hub.test", resolve=resolve, allowed=lambda address: True)
        assert _get(guard, f"http://cdn.test:{fake.cdn_port}/a").status_code == 404
        assert [seen.name for seen in fake.requests] == [f"cdn.test:{fake.cdn_port}"]
        nowhere = RedirectGuard(
            "http://hub.test", resolve=lambda *_: ["::1"], allowed=lambda _: True
        )
        with pytest.raises(httpx2.ConnectError):
            _get(nowhere, f"http://cdn.test:{fake.cdn_port}/a")


def test_a_host_of_many_addresses_is_tried_at_more_than_a_few_and_in_both_families() -> None:
    refusing = [f"127.0.0.{number}" for number in range(2, 9)]
    with FakeHub() as fake:
        for found in ([*refusing, "127.0.0.1"], ["::1", *["::1"] * 20, "127.0.0.1"]):
            guard = RedirectGuard(
                "http://hub.test", resolve=partial(_found, found), allowed=lambda address: True
            )
            for host in ("cdn.test", "hub.test"):
                url = f"http://{host}:{fake.cdn_port}/a"
                assert _get(guard, url).status_code == 404


def _found(addresses: list[str], host: str, port: int) -> list[str]:
    return addresses


# A mirror in a private network; here, 127.0.0.1 is one, and 127.0.0.2 is public.


def _private_guard(names: dict[str, list[str]]) -> RedirectGuard:
    def resolve(host: str, port: int) -> list[str]:
        if host not in names:
            raise OSError("no such name")
        return names[host]

    return RedirectGuard(
        "http://hub.test",
        resolve=resolve,
        allowed=lambda address: address == "127.0.0.2",
        private=lambda address: address == "127.0.0.1",
    )


def test_a_mirror_in_a_private_network_may_send_on_into_it() -> None:
    with FakeHub() as fake:
        guard = _private_guard({"hub.test": ["127.0.0.1"], "store.test": ["127.0.0.1"]})
        assert _get(guard, f"http://store.test:{fake.cdn_port}/a").status_code == 404
        assert [seen.name for seen in fake.requests] == [f"store.test:{fake.cdn_port}"]


@pytest.mark.parametrize("own", [["127.0.0.2"], ["127.0.0.1", "127.0.0.2"], ["169.254.1.1"], None])
def test_no_other_server_may_send_on_into_it(own: list[str] | None) -> None:
    names = {"store.test": ["127.0.0.1"]} | ({} if own is None else {"hub.test": own})
    with pytest.raises(NotPublic, match=r"store\.test is at 127\.0\.0\.1"):
        _get(_private_guard(names), "http://store.test/a")


@pytest.mark.parametrize("address", ["169.254.169.254", "127.0.0.3", "::1"])
def test_a_private_mirror_may_not_send_on_to_this_machine_or_the_cloud(address: str) -> None:
    guard = _private_guard({"hub.test": ["127.0.0.1"], "store.test": ["127.0.0.1", address]})
    with pytest.raises(NotPublic, match=f"store.test is at {address}"):
        _get(guard, "http://store.test/a")


def _inside(host: str, port: int) -> list[str]:
    return ["10.0.0.7"] if host == "cdn.test" else ["1.1.1.1"]


def test_what_the_environment_excepts_goes_by_no_proxy(
    proxy: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "hub.test,cdn.test")
    with pytest.raises(NotPublic):
        _get(
            RedirectGuard("http://hub.test", resolve=_inside),
            "http://cdn.test/a",
        )
    assert proxy.requests == []


# For connections that others make.


def test_the_addresses_of_a_url_are_checked_as_those_of_a_request() -> None:
    names = {"cdn.test": ["127.0.0.2", "127.0.0.2"], "inside.test": ["127.0.0.2", "127.0.0.3"]}
    guard = _private_guard({**names, "hub.test": ["127.0.0.3"]})
    assert guard.addresses("http://cdn.test/a") == ["127.0.0.2", "127.0.0.2"]
    assert guard.addresses("http://hub.test/a") == ["127.0.0.3"]
    with pytest.raises(NotPublic, match=r"inside\.test is at 127\.0\.0\.3"):
        guard.addresses("http://inside.test/a")
    with pytest.raises(httpx2.ConnectError, match="has no address"):
        guard.addresses("http://nowhere.test/a")
    with pytest.raises(NotPublic, match="without https"):
        RedirectGuard("https://hub.test").addresses("http://hub.test/a")


def test_connections_to_them_trust_the_certificates_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = make_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    guard = RedirectGuard(
        "https://hub.test", resolve=partial(_found, ["127.0.0.1"]), allowed=lambda _: True
    )
    with FakeWeb(certificate, b"content") as server:
        url = server.url("/m.gguf", "cdn.test")
        found = guard.addresses(url)
        assert found is not None
        connection = DirectConnection(Route(url, tuple(found), guard.trust, {}, (5.0, 5.0)))
        assert b"".join(map(bytes, connection.ask({}).chunks())) == b"content"
        connection.close()
    monkeypatch.delenv("SSL_CERT_FILE")
    with FakeWeb(certificate, b"content") as server:
        url = server.url("/m.gguf", "cdn.test")
        route = Route(url, ("127.0.0.1",), RedirectGuard(url).trust, {}, (5.0, 5.0))
        with pytest.raises(Transient, match="certificate"):
            DirectConnection(route)


def test_a_url_that_goes_by_a_proxy_has_no_addresses(
    proxy: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = _private_guard({"cdn.test": ["127.0.0.2"]})
    assert guard.addresses("http://cdn.test/a") is None
    monkeypatch.setenv("no_proxy", "cdn.test")
    assert guard.addresses("http://cdn.test/a") == ["127.0.0.2"]
