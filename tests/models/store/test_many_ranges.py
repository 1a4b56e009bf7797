"""Downloads by many ranges at once, each fault of a server or a disk with them."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest

from gguf_worker.errors import DownloadFailed, ModelCorrupt
from gguf_worker.models.source import Hub
from gguf_worker.models.store import PieceSizes, Store
from tests.fake_hub import COMMIT, FakeHub
from tests.local_server import Cut, Fault, Flip, IgnoreRange, Length, Stall, Status
from tests.models.store.conftest import FILE, PUBLISHED, Volume, leave_part, sha256_of
from tests.tiny_repository import NAME, REPO
from tests.waiting import until

PIECE = 20_000
MANY = PieceSizes(connections=4, least_file=0, least=PIECE, most=PIECE, least_split=10**9)
FINE = Cut(10**9)
"""No fault at all."""


def _pieces(model_bytes: bytes) -> list[str]:
    size = len(model_bytes)
    pieces = [f"bytes={at}-{at + PIECE - 1}" for at in range(0, size, PIECE)]
    return [*pieces[:-1], f"bytes={size // PIECE * PIECE}-"]


def _asked(fake: FakeHub, host: str) -> list[str | None]:
    return [seen.range for seen in fake.requests if seen.host == host and "/api/" not in seen.path]


def _sent(fake: FakeHub, count: int) -> None:
    """Check how many bytes were sent; the server counts them perhaps after they were read."""
    until(lambda: fake.sent_bytes >= count)
    assert fake.sent_bytes == count


def test_each_byte_is_fetched_once_and_the_hub_is_asked_once(
    volume: Volume, fake_hub: FakeHub, model_bytes: bytes
) -> None:
    assert volume.store(sizes=MANY).ensure(FILE).path.read_bytes() == model_bytes
    pieces = _pieces(model_bytes)
    assert sorted(seen.range or "" for seen in fake_hub.downloads()) == sorted(pieces)
    assert _asked(fake_hub, "hub") == [pieces[0]]
    _sent(fake_hub, len(model_bytes))
    assert volume.names() == PUBLISHED
    assert volume.slept == []


@pytest.mark.parametrize(
    "fault",
    [
        Status(429, {"Retry-After": "3"}),
        Status(429, {"RateLimit": '"resolvers";r=0;t=55'}),
        Status(500),
        Status(503),
        Status(416),
        Status(403),
        Status(404),
        Stall(10_000),
        Cut(0),
        Cut(10_000),
        Flip(70_000),
        IgnoreRange(),
    ],
    ids=str,
)
@pytest.mark.parametrize("before", [0, 1, 4])
def test_what_may_pass_is_waited_out_within_the_call(
    volume: Volume, fake_hub: FakeHub, model_bytes: bytes, fault: Fault, before: int
) -> None:
    fake_hub.misbehave("file", *[FINE] * before, fault)
    store = volume.store(sizes=MANY, timeout=0.5)
    assert store.ensure(FILE).path.read_bytes() == model_bytes
    assert volume.names() == PUBLISHED


@pytest.mark.parametrize("seed", range(12))
def test_faults_in_any_order_leave_the_file_as_it_should_be(
    volume: Volume, fake_hub: FakeHub, model_bytes: bytes, seed: int
) -> None:
    chance = random.Random(seed)
    kinds: list[Fault] = [
        *(FINE, FINE, FINE, Cut(0), Cut(5_000), Cut(19_999), Stall(3_000), IgnoreRange()),
        *(Status(403), Status(404), Status(416), Status(500), Status(503)),
        Status(429, {"Retry-After": "9"}),
    ]
    fake_hub.misbehave("file", *chance.choices(kinds, k=12))
    fake_hub.expires_after = chance.randrange(30)
    store = volume.store(sizes=replace(MANY, least_split=chance.choice([1_000, 10**9])), timeout=1)
    try:
        found = store.ensure(FILE)
    except DownloadFailed:  # too many in a row
        found = store.ensure(FILE)
    assert found.path.read_bytes() == model_bytes
    assert volume.names() == PUBLISHED


def test_addresses_that_expire_are_asked_for_anew_once_and_without_a_wait(
    volume: Volume, fake_hub: FakeHub, model_bytes: bytes
) -> None:
    fake_hub.expires_after = 3
    assert volume.store(sizes=MANY).ensure(FILE).path.read_bytes() == model_bytes
    assert len(_asked(fake_hub, "hub")) == 2
    assert volume.slept == []


def test_a_server_without_ranges_is_read_once_by_one_connection(
    volume: Volume, fake_hub: FakeHub, model_bytes: bytes
) -> None:
    fake_hub.misbehave("file", *[IgnoreRange()] * 99)
    assert volume.store(sizes=MANY).ensure(FILE).path.read_bytes() == model_bytes
    assert len(fake_hub.downloads()) == 1


def test_a_server_that_never_brings_anything_is_given_up_as_with_one_connection(
    volume: Volume, fake_hub: FakeHub
) -> None:
    fake_hub.misbehave("file", FINE, *[Cut(0)] * 999)
    with pytest.raises(DownloadFailed, match="failed 6 times in a row"):
        volume.store(sizes=MANY).ensure(FILE)
    assert len(volume.slept) == 5
    assert len(fake_hub.downloads()) <= 1 + 6 * MANY.connections


@pytest.mark.parametrize("change", [-1000, 1000])
def test_a_file_of_another_length_is_refused_and_the_next_start_has_it(
    volume: Volume, fake_hub: FakeHub, model_bytes: bytes, change: int
) -> None:
    fake_hub.misbehave("file", FINE, FINE, Length(len(model_bytes) + change))
    with pytest.raises(DownloadFailed, match="were announced"):
        volume.store(sizes=MANY).ensure(FILE)
    assert volume.names() == {f"{NAME}.part", f"{NAME}.part.json"}
    assert volume.store(sizes=MANY).ensure(FILE).path.read_bytes() == model_bytes


def test_a_download_altered_twice_is_refused(
    volume: Volume, fake_hub: FakeHub, model_bytes: bytes
) -> None:
    altered = model_bytes[:70_000] + b"?" + model_bytes[70_001:]
    fake_hub.add(REPO, NAME, altered, claimed_sha256=sha256_of(model_bytes))
    with pytest.raises(ModelCorrupt, match="damaged twice"):
        volume.store(sizes=MANY).ensure(FILE)
    assert not {NAME, f"{NAME}.part"} & volume.names()


# Resumed.


class _Killed(BaseException):
    pass


def _raise_killed(seconds: float) -> None:
    raise _Killed


@pytest.fixture
def killed(volume: Volume, fake_hub: FakeHub) -> int:
    """A download that ended in its midst; the bytes that it has noted."""
    hub = Hub(fake_hub.url, None, sleep=_raise_killed)
    fake_hub.misbehave("file", FINE, FINE, FINE, Cut(100))
    with pytest.raises(_Killed):
        Store(volume.root, {"hub": hub}, volume.progress.append, sizes=MANY).ensure(FILE)
    hub.close()
    note = json.loads((volume.folder / f"{NAME}.part.json").read_text())
    fake_hub.requests.clear()
    return sum(end - start for start, end in note["there"])


def test_only_what_is_missing_is_fetched_after_a_crash(
    volume: Volume, fake_hub: FakeHub, model_bytes: bytes, killed: int
) -> None:
    assert killed >= PIECE
    fake_hub.sent_bytes = 0
    assert volume.store(sizes=MANY).ensure(FILE).path.read_bytes() == model_bytes
    _sent(fake_hub, len(model_bytes) - killed)
    assert volume.names() == PUBLISHED


def test_many_ranges_go_on_with_a_part_that_one_connection_left(
    volume: Volume, fake_hub: FakeHub, model_bytes: bytes
) -> None:
    """So versions without such notes left it too."""
    there = 2 * PIECE + 1000
    size, sha256 = len(model_bytes), sha256_of(model_bytes)
    leave_part(volume, model_bytes[:there], commit=COMMIT, size=size, sha256=sha256)
    assert volume.store(sizes=MANY).ensure(FILE).path.read_bytes() == model_bytes
    assert fake_hub.downloads()[0].range == f"bytes={there}-{there + PIECE - 1}"
    _sent(fake_hub, size - there)


def test_one_connection_goes_on_with_a_part_that_many_left(
    volume: Volume, fake_hub: FakeHub, model_bytes: bytes, killed: int
) -> None:
    fake_hub.sent_bytes = 0
    assert volume.store().ensure(FILE).path.read_bytes() == model_bytes
    _sent(fake_hub, len(model_bytes) - killed)


def test_a_part_that_is_shorter_than_its_note_is_not_believed_beyond_its_end(
    volume: Volume, fake_hub: FakeHub, model_bytes: bytes
) -> None:
    size, sha256 = len(model_bytes), sha256_of(model_bytes)
    there = [[0, PIECE], [2 * PIECE, 3 * PIECE]]
    leave_part(volume, model_bytes[:30_000], commit=COMMIT, size=size, sha256=sha256, there=there)
    assert volume.store(sizes=MANY).ensure(FILE).path.read_bytes() == model_bytes
    _sent(fake_hub, size - PIECE)


def test_a_note_that_is_wrong_costs_one_more_download(
    volume: Volume, fake_hub: FakeHub, model_bytes: bytes
) -> None:
    size, sha256 = len(model_bytes), sha256_of(model_bytes)
    leave_part(volume, bytes(size), commit=COMMIT, size=size, sha256=sha256, there=[[0, PIECE]])
    assert volume.store(sizes=MANY).ensure(FILE).path.read_bytes() == model_bytes
    _sent(fake_hub, 2 * size - PIECE)


def test_a_version_that_knows_no_such_notes_takes_the_part_for_another_files(
    volume: Volume, killed: int
) -> None:
    """It compares the whole note with its own, which has no `there`."""
    note = json.loads((volume.folder / f"{NAME}.part.json").read_text())
    assert {"commit", "size", "sha256"} < set(note)


# Where the bytes are asked for.


@pytest.mark.parametrize("redirect", [True, False])
def test_the_token_goes_to_the_hub_alone_also_by_the_connections_of_many(
    volume: Volume, fake_hub: FakeHub, model_bytes: bytes, redirect: bool
) -> None:
    fake_hub.token, fake_hub.redirect = "hf_secret", redirect
    hub = Hub(fake_hub.url, "hf_secret")
    store = Store(volume.root, {"hub": hub}, volume.progress.append, sizes=MANY)
    assert store.ensure(FILE).path.read_bytes() == model_bytes
    store.close()
    hub.close()
    seen = {(each.host, each.authorization) for each in fake_hub.requests}
    assert seen == {("hub", "Bearer hf_secret")} | ({("cdn", None)} if redirect else set())


def test_a_proxy_of_the_environment_is_used_for_every_range(
    volume: Volume, fake_hub: FakeHub, model_bytes: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fake Hub stands for the proxy, which gets the whole address as the path."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", fake_hub.url)
    fake_hub.redirect = False
    hub = Hub("http://hub.test", None)
    store = Store(volume.root, {"hub": hub}, volume.progress.append, sizes=MANY)
    assert store.ensure(FILE).path.read_bytes() == model_bytes
    store.close()
    hub.close()
    assert {each.name for each in fake_hub.requests} == {"hub.test"}
    assert len(fake_hub.downloads()) == len(_pieces(model_bytes))


def test_each_connection_of_many_goes_to_an_address_that_was_checked_for_it(
    volume: Volume, fake_hub: FakeHub
) -> None:
    answers = iter([["127.0.0.1"]])
    hub = Hub(
        fake_hub.url,
        None,
        resolve=lambda host, port: (
            next(answers, ["10.0.0.7"]) if host == "cdn.test" else ["127.0.0.1"]
        ),
        allowed=lambda address: address == "127.0.0.1",
    )
    store = Store(volume.root, {"hub": hub}, volume.progress.append, sizes=MANY)
    fake_hub.file_elsewhere = f"http://cdn.test:{fake_hub.cdn_port}"
    with pytest.raises(DownloadFailed, match=r"cdn\.test is at 10\.0\.0\.7"):
        store.ensure(FILE)
    store.close()
    hub.close()
    assert len(fake_hub.downloads()) == 1
