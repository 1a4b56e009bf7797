from __future__ import annotations

import hashlib
import ssl
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from gguf_worker.errors import ConfigError, DiskFull, DownloadFailed, ModelCorrupt, ModelUnavailable
from gguf_worker.models.source import FixedPlace, parse_reference
from gguf_worker.models.source.web import Web, WebFile
from gguf_worker.models.store import PieceSizes, Store
from gguf_worker.models.store.usage_marks import in_use
from tests.fake_web import Change, FakeWeb, make_certificate
from tests.local_server import Cut, Fault, Flip, IgnoreRange, Length, Stall, Status
from tests.tiny_gguf import write_tiny

PRIVATE = "10.0.0.7"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def server(certificate: Path, model_bytes: bytes) -> Iterator[FakeWeb]:
    with FakeWeb(certificate, model_bytes) as server:
        yield server


def resolve(host: str, port: int) -> list[str]:
    """All names are of this machine, but for one that is also inside a network."""
    if host == "nowhere.test":
        raise OSError("no such name")
    return ["127.0.0.1", PRIVATE] if host == "inside.test" else ["127.0.0.1"]


class _WebVolume:
    """A volume, and new stores on it as new workers would have them."""

    def __init__(self, root: Path, certificate: Path, content: bytes) -> None:
        self.root = root
        self.sha256 = hashlib.sha256(content).hexdigest()
        self.model = root / "models/+url/sha256" / self.sha256 / "m.gguf"
        self.waits: list[float] = []
        self._trust = ssl.create_default_context(cafile=certificate)

    def web(self, **options: Any) -> Web:
        given: dict[str, Any] = {
            "timeout": 0.5,
            "sleep": self.waits.append,
            "jitter": lambda: 1.0,
            "resolve": resolve,
            "allowed": lambda address: address == "127.0.0.1",
            "trust": self._trust,
        }
        return Web(**{**given, **options})

    def ensure(
        self, url: str, *, sha256: str | None = None, limit: int | None = None, **options: Any
    ) -> Any:
        with closing(self.store(limit=limit, **options)) as store:
            return store.ensure(parse_reference(url), sha256=sha256 or self.sha256)

    def store(
        self,
        *,
        limit: int | None = None,
        offline: bool = False,
        sizes: PieceSizes | None = None,
        **options: Any,
    ) -> Store:
        sources = {"web": self.web(**options)}
        return Store(
            self.root, sources, lambda progress: None, limit=limit, offline=offline, sizes=sizes
        )


@pytest.fixture
def volume(tmp_path: Path, certificate: Path, model_bytes: bytes) -> _WebVolume:
    return _WebVolume(tmp_path / "volume", certificate, model_bytes)


def test_a_file_is_fetched_checked_and_stored_by_its_hash_once(
    volume: _WebVolume, server: FakeWeb, model_bytes: bytes
) -> None:
    found = volume.ensure(server.url("/m.gguf?signature=secret"))
    assert found.path == volume.model
    assert found.path.read_bytes() == model_bytes
    assert (found.sha256, found.fetched) == (volume.sha256, True)
    assert found.source == server.url("/m.gguf")
    server.requests.clear()
    again = volume.ensure(server.url("/m.gguf?signature=other", host="cdn.test"))
    assert (again.path, again.fetched) == (volume.model, False)
    assert server.requests == []
    assert not in_use(volume.model)


def test_offline_a_stored_one_is_used_and_no_other_is_asked_for(
    volume: _WebVolume, server: FakeWeb
) -> None:
    volume.ensure(server.url())
    server.requests.clear()
    address = parse_reference(server.url("/m.gguf?signature=secret"))
    with closing(volume.store(offline=True)) as store:
        assert store.ensure(address, sha256=volume.sha256).path == volume.model
        for attempt in (store.ensure, store.inspect):
            with pytest.raises(ModelUnavailable, match=r"m\.gguf at '0.* HF_HUB_OFFLINE") as no:
                attempt(address, sha256="0" * 64)
            assert "secret" not in no.value.message
    assert server.requests == []


def test_the_hash_is_required(volume: _WebVolume, server: FakeWeb) -> None:
    with pytest.raises(ConfigError, match="MODEL_SHA256 is not set") as refused:
        volume.store().ensure(parse_reference(server.url("/m.gguf?signature=secret")))
    assert refused.value.param == "MODEL_SHA256"
    assert "secret" not in str(refused.value)
    assert server.requests == []


def test_no_token_is_sent(volume: _WebVolume, server: FakeWeb) -> None:
    volume.ensure(server.url())
    assert all("authorization" not in seen.headers for seen in server.requests)
    assert {seen.host for seen in server.requests} == {f"models.test:{server.port}"}


@pytest.mark.parametrize("name", ["etag", "last_modified"])
def test_a_cut_download_goes_on_if_the_file_is_the_same(
    volume: _WebVolume, server: FakeWeb, model_bytes: bytes, name: str
) -> None:
    server.etag = None
    setattr(server, name, word := '"v7"' if name == "etag" else "Mon, 01 Jan 2024 00:00:00 GMT")
    server.misbehave(Cut(100_000))
    assert volume.ensure(server.url()).path.read_bytes() == model_bytes
    assert server.ranges() == ["bytes=0-0", None, "bytes=100000-"]
    assert server.requests[-1].headers["if-range"] == word


def test_a_weak_etag_does_not_vouch_for_the_bytes(
    volume: _WebVolume, server: FakeWeb, model_bytes: bytes
) -> None:
    server.etag = 'W/"v1"'
    server.misbehave(Cut(100_000))
    assert volume.ensure(server.url()).path.read_bytes() == model_bytes
    assert "if-range" not in server.requests[-1].headers


def test_a_server_that_ignores_ranges_is_read_from_the_start(
    volume: _WebVolume, server: FakeWeb, model_bytes: bytes
) -> None:
    server.misbehave(Cut(100_000), IgnoreRange())
    assert volume.ensure(server.url()).path.read_bytes() == model_bytes


def test_a_file_that_is_changed_between_two_connections_is_fetched_anew(
    volume: _WebVolume, server: FakeWeb, model_bytes: bytes
) -> None:
    server.misbehave(Cut(100_000), Change('"v2"'))
    assert volume.ensure(server.url()).path.read_bytes() == model_bytes
    assert server.ranges() == ["bytes=0-0", None, "bytes=100000-", None]


def test_a_part_of_an_earlier_version_is_not_gone_on_with(
    volume: _WebVolume, server: FakeWeb, model_bytes: bytes
) -> None:
    def killed(seconds: float) -> None:
        raise KeyboardInterrupt

    server.misbehave(Cut(100_000))
    with pytest.raises(KeyboardInterrupt):
        volume.ensure(server.url(), sleep=killed)
    assert (volume.model.with_name("m.gguf.part")).stat().st_size == 100_000
    server.etag = '"v2"'
    server.requests.clear()
    assert volume.ensure(server.url()).path.read_bytes() == model_bytes
    assert server.ranges() == ["bytes=0-0", None]


def test_a_part_of_the_same_version_is_gone_on_with_by_the_next_start(
    volume: _WebVolume, server: FakeWeb, model_bytes: bytes
) -> None:
    def killed(seconds: float) -> None:
        raise KeyboardInterrupt

    server.misbehave(Cut(100_000))
    with pytest.raises(KeyboardInterrupt):
        volume.ensure(server.url(), sleep=killed)
    server.requests.clear()
    assert volume.ensure(server.url()).path.read_bytes() == model_bytes
    assert server.ranges() == ["bytes=0-0", "bytes=100000-"]


@pytest.mark.parametrize(
    "fault", [Status(500), Status(429, {"Retry-After": "7"}), Stall(100_000)], ids=str
)
def test_what_may_pass_is_tried_again(
    volume: _WebVolume, server: FakeWeb, model_bytes: bytes, fault: Fault
) -> None:
    server.misbehave(fault)
    assert volume.ensure(server.url()).path.read_bytes() == model_bytes
    assert volume.waits == [7.0 if isinstance(fault, Status) and fault.headers else 1.0]


# Many ranges at once.

MANY = PieceSizes(connections=4, least_file=0, least=20_000, most=20_000, least_split=10**9)


def test_many_ranges_go_to_the_end_of_the_redirects_and_name_the_version(
    volume: _WebVolume, server: FakeWeb, model_bytes: bytes
) -> None:
    server.redirects = {"/a.gguf": server.url("/m.gguf?signature=secret", "cdn.test")}
    assert volume.ensure(server.url("/a.gguf"), sizes=MANY).path.read_bytes() == model_bytes
    pieces = -(-len(model_bytes) // 20_000)
    asked = [seen.path for seen in server.requests]
    assert asked.count("/a.gguf") == 2  # the question for the length, and the first piece
    later = [seen for seen in server.requests if seen.path.startswith("/m.gguf")][2:]
    assert len(later) == pieces - 1
    assert {seen.host for seen in later} == {f"cdn.test:{server.port}"}
    assert {seen.headers["if-range"] for seen in later} == {'"v1"'}


@pytest.mark.parametrize(
    "fault",
    [
        Status(500),
        Status(416),
        Status(429, {"Retry-After": "7"}),
        Stall(10_000),
        Cut(10_000),
        Flip(50_000),
        IgnoreRange(),
        Change('"v2"'),
    ],
    ids=str,
)
@pytest.mark.parametrize("before", [0, 3])
def test_many_ranges_survive_what_one_connection_does(
    volume: _WebVolume, server: FakeWeb, model_bytes: bytes, fault: Fault | Change, before: int
) -> None:
    server.misbehave(*[Cut(10**9)] * before, fault)
    assert volume.ensure(server.url(), sizes=MANY).path.read_bytes() == model_bytes


def test_an_address_that_is_refused_in_the_midst_is_asked_for_again(
    volume: _WebVolume, server: FakeWeb, model_bytes: bytes
) -> None:
    server.redirects = {"/a.gguf": server.url("/m.gguf?signature=secret", "cdn.test")}
    server.misbehave(*[Cut(10**9)] * 3, Status(403))
    assert volume.ensure(server.url("/a.gguf"), sizes=MANY).path.read_bytes() == model_bytes
    assert [seen.path for seen in server.requests].count("/a.gguf") == 3
    assert volume.waits == []


def test_a_name_is_checked_again_for_each_connection_of_many(
    volume: _WebVolume, server: FakeWeb
) -> None:
    answers = iter([["127.0.0.1"]] * 2)
    with pytest.raises(DownloadFailed, match=PRIVATE):
        volume.ensure(server.url(), sizes=MANY, resolve=lambda host, port: next(answers, [PRIVATE]))
    assert len(server.requests) == 2


def test_a_byte_that_was_altered_on_the_way_is_found_and_the_file_fetched_again(
    volume: _WebVolume, server: FakeWeb, model_bytes: bytes
) -> None:
    server.misbehave(Flip(200_000))
    assert volume.ensure(server.url()).path.read_bytes() == model_bytes


def test_another_file_than_the_hash_says_is_never_published(
    volume: _WebVolume, server: FakeWeb
) -> None:
    with pytest.raises(ModelCorrupt, match=volume.sha256):
        volume.ensure(server.url(), sha256="0" * 64)
    assert not list(volume.root.rglob("*.gguf"))


def test_a_file_of_another_length_than_announced_is_refused(
    volume: _WebVolume, server: FakeWeb, model_bytes: bytes
) -> None:
    server.misbehave(Length(len(model_bytes) + 5))
    with pytest.raises(DownloadFailed, match="were announced"):
        volume.ensure(server.url())


@pytest.mark.parametrize(
    ("status", "error", "says"),
    [
        (403, ModelUnavailable, "signed address may have expired"),
        (404, ModelUnavailable, "is not there"),
        (418, DownloadFailed, "status 418"),
    ],
)
def test_a_refusal_says_what_to_do_and_no_signature(
    volume: _WebVolume, server: FakeWeb, status: int, error: type[Exception], says: str
) -> None:
    server.misbehave(Status(status))
    with pytest.raises(error, match=says) as refused:
        volume.ensure(server.url("/m.gguf?signature=secret"))
    assert "secret" not in str(refused.value)


def test_more_than_the_volume_may_hold_is_not_begun(volume: _WebVolume, server: FakeWeb) -> None:
    with pytest.raises(DiskFull, match="VOLUME_MAX_GB allows 1,000"):
        volume.ensure(server.url(), limit=1000)
    assert server.ranges() == ["bytes=0-0"]


def test_a_header_is_read_by_ranges_without_the_file(
    volume: _WebVolume, server: FakeWeb, tmp_path: Path
) -> None:
    large = write_tiny(tmp_path / "large.gguf", vocabulary=32_000)
    server.content = large.read_bytes()
    found = volume.store().inspect(parse_reference(server.url("/m.gguf?signature=secret")))
    assert (found.where, found.source) == ("web", server.url("/m.gguf"))
    assert found.header.name == "tiny llama"
    assert 0 < found.fetched_bytes < len(server.content) / 2
    assert not volume.root.exists()


# Where it may lead.


def test_redirects_are_followed_each_to_its_own_host(
    volume: _WebVolume, server: FakeWeb, model_bytes: bytes
) -> None:
    server.redirects = {"/a.gguf": server.url("/b", "cdn.test"), "/b": "/m.gguf"}
    assert volume.ensure(server.url("/a.gguf")).path.read_bytes() == model_bytes
    assert [(seen.host.partition(":")[0], seen.path) for seen in server.requests[:3]] == [
        ("models.test", "/a.gguf"),
        ("cdn.test", "/b"),
        ("cdn.test", "/m.gguf"),
    ]


def test_five_redirects_are_followed_and_six_are_not(volume: _WebVolume, server: FakeWeb) -> None:
    server.redirects = {f"/{at}.gguf": f"/{at - 1}.gguf" for at in range(1, 7)}
    assert volume.ensure(server.url("/5.gguf")).fetched
    with pytest.raises(DownloadFailed, match="more than 5 times"):
        volume.ensure(server.url("/6.gguf"))


@pytest.mark.parametrize(
    "target",
    [
        "http://models.test/m.gguf",
        "file:///etc/passwd",
        "ftp://models.test/m.gguf",
        "https://user:word@models.test/m.gguf",
        "https://models.test:99999/m.gguf",
        "https://[::1/m.gguf",
    ],
)
def test_a_redirect_to_anything_but_https_is_not_followed(
    volume: _WebVolume, server: FakeWeb, target: str
) -> None:
    server.redirects = {"/a.gguf": target}
    with pytest.raises(DownloadFailed, match="only such ones are followed"):
        volume.ensure(server.url("/a.gguf"))
    assert len(server.requests) == 1


def test_a_name_with_one_address_that_is_not_public_is_not_connected_to(
    volume: _WebVolume, server: FakeWeb
) -> None:
    for path in ("/a.gguf", "/m.gguf"):
        server.redirects = {"/a.gguf": server.url("/m.gguf", "inside.test")}
        host = "models.test" if path == "/a.gguf" else "inside.test"
        with pytest.raises(DownloadFailed, match=rf"inside.test is at {PRIVATE}, which is not on"):
            volume.ensure(server.url(path, host))
    assert [seen.path for seen in server.requests] == ["/a.gguf"]


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254", "10.1.2.3", "::1", "fe80::1"])
def test_by_default_nothing_but_the_public_internet_is_connected_to(
    volume: _WebVolume, server: FakeWeb, address: str
) -> None:
    web = Web(resolve=lambda host, port: [address])
    with pytest.raises(DownloadFailed, match="not on the public internet"):
        web.resolve(WebFile(server.url(), "m.gguf"), "main", sha256=volume.sha256)
    assert server.requests == []


def test_the_connection_goes_to_the_address_that_was_looked_at(
    volume: _WebVolume, server: FakeWeb
) -> None:
    """A name that means another address each time it is asked: what was checked is what is used."""
    answers = iter([["127.0.0.1"], [PRIVATE]])
    web = volume.web(resolve=lambda host, port: next(answers))
    reference = parse_reference(server.url())
    assert isinstance(reference, WebFile)
    (remote,) = web.resolve(reference, "main", sha256=volume.sha256)
    with pytest.raises(DownloadFailed, match=PRIVATE):
        next(web.open_range(remote, 0))
    assert len(server.requests) == 1


def test_a_server_is_asked_at_its_next_address_where_one_cannot_be_reached(
    volume: _WebVolume, server: FakeWeb, model_bytes: bytes
) -> None:
    model = volume.ensure(
        server.url(), resolve=lambda *_: ["::1", "127.0.0.1"], allowed=lambda address: True
    )
    assert model.path.read_bytes() == model_bytes
    assert volume.waits == []


def test_a_name_without_an_address_is_tried_again_and_then_reported(
    volume: _WebVolume, server: FakeWeb
) -> None:
    with pytest.raises(DownloadFailed, match=r"nowhere.test has no address"):
        volume.ensure(server.url(host="nowhere.test"))
    assert len(volume.waits) == 5


def test_a_certificate_of_another_name_is_refused(volume: _WebVolume, server: FakeWeb) -> None:
    with pytest.raises(DownloadFailed, match="CERTIFICATE_VERIFY_FAILED"):
        volume.ensure(server.url(host="another.test"))
    assert server.requests == []


def test_a_proxy_of_the_environment_is_not_used(
    volume: _WebVolume, server: FakeWeb, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert volume.ensure(server.url()).fetched


def test_a_server_that_does_not_say_how_long_the_file_is_is_refused(
    volume: _WebVolume, server: FakeWeb, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin(handler: Any, status: int, headers: dict[str, str], length: int) -> None:
        handler.send_response_only(200)
        handler.end_headers()

    handler = server._server.http.RequestHandlerClass
    monkeypatch.setattr(handler, "begin", begin)
    with pytest.raises(DownloadFailed, match="does not say how long"):
        volume.ensure(server.url())


def test_a_file_has_a_place_by_its_hash_and_is_in_no_cache(volume: _WebVolume) -> None:
    web, reference = volume.web(), WebFile("https://models.test/m.gguf", "m.gguf")
    assert web.place(reference, "main", volume.sha256) == FixedPlace(volume.sha256, "m.gguf")
    assert web.place(reference, "main", None) is None
    web.close()
