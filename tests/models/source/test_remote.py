from __future__ import annotations

import pytest

from gguf_worker.errors import DownloadFailed
from gguf_worker.models.source import Hub
from gguf_worker.models.source.hub_reference import HubFile
from tests.fake_hub import FakeHub
from tests.local_server import Cut, IgnoreRange, Length, Stall, Status, Text
from tests.models.source.conftest import CONTENT, REPO, read_from, remote_file
from tests.waiting import until

# Trouble that may pass.


def test_the_hub_is_asked_again_after_an_error_of_its_own(
    fake: FakeHub, hub: Hub, slept: list[float]
) -> None:
    fake.misbehave("info", Status(500), Status(503), Text("<html>Sign in</html>"))
    assert remote_file(fake, hub).size == len(CONTENT)
    assert slept == [1.0, 2.0, 4.0]


def test_a_server_that_asks_to_wait_is_obeyed(fake: FakeHub, hub: Hub, slept: list[float]) -> None:
    dates = {
        "Date": "Wed, 21 Oct 2015 07:28:00 GMT",
        "Retry-After": "Wed, 21 Oct 2015 07:28:42 GMT",
    }
    fake.misbehave("info", Status(429, {"Retry-After": "17"}), Status(503, dates))
    remote_file(fake, hub)
    assert slept == [17.0, 42.0]


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [({"Retry-After": "3600"}, 3600), ({"RateLimit": '"api";r=0;t=243'}, 244)],
    ids=str,
)
def test_a_server_that_asks_to_wait_for_too_long_is_given_up_with_the_time_to_come_again(
    fake: FakeHub, hub: Hub, slept: list[float], headers: dict[str, str], seconds: int
) -> None:
    fake.misbehave("info", Status(429, headers))
    with pytest.raises(DownloadFailed, match=f"429. It asks to come again in {seconds} s") as given:
        remote_file(fake, hub)
    assert given.value.retry_after == seconds
    assert "in a row" not in str(given.value)
    assert slept == []


def test_the_hubs_rate_limit_is_waited_for(fake: FakeHub, hub: Hub, slept: list[float]) -> None:
    policy = {"RateLimit-Policy": '"fixed window";"api";q=500;w=300'}
    fake.misbehave("info", Status(429, policy | {"RateLimit": '"api";r=0;t=55'}))
    remote = remote_file(fake, hub)
    fake.misbehave("file", Status(429, policy | {"RateLimit": '"resolvers";r=0;t=100'}))
    assert read_from(hub, remote) == CONTENT
    assert slept == [56.0, 101.0]


def test_a_hub_that_stays_broken_is_a_failure_that_may_pass(
    fake: FakeHub, hub: Hub, slept: list[float]
) -> None:
    fake.misbehave("info", *[Status(502)] * 9)
    with pytest.raises(DownloadFailed, match=r"failed 6 times in a row.* 502") as refused:
        remote_file(fake, hub)
    assert not refused.value.permanent
    assert slept == [1.0, 2.0, 4.0, 8.0, 16.0]


def test_a_hub_that_is_not_there_is_a_failure_that_may_pass(slept: list[float]) -> None:
    hub = Hub("http://127.0.0.1:9", None, sleep=slept.append)
    with pytest.raises(DownloadFailed, match="ConnectError"):
        hub.resolve(HubFile(REPO, "a.gguf"), "main")
    assert len(slept) == 5


# Connections that fail.


def test_a_cut_connection_is_taken_up_where_it_ended(
    fake: FakeHub, hub: Hub, slept: list[float]
) -> None:
    remote = remote_file(fake, hub)
    fake.misbehave("file", Cut(3000), Cut(0), Cut(2000))
    assert read_from(hub, remote) == CONTENT
    ranges = [seen.range for seen in fake.downloads()]
    assert ranges == [None, "bytes=3000-", "bytes=3000-", "bytes=5000-"]
    assert slept == [1.0, 2.0, 4.0]


def test_a_server_that_ignores_ranges_is_read_over(fake: FakeHub, hub: Hub) -> None:
    remote = remote_file(fake, hub)
    fake.misbehave("file", Cut(3000), IgnoreRange())
    assert read_from(hub, remote) == CONTENT


def test_a_connection_that_falls_silent_is_left(fake: FakeHub, slept: list[float]) -> None:
    hub = Hub(fake.url, None, timeout=0.3, sleep=slept.append)
    remote = remote_file(fake, hub)
    fake.misbehave("file", Stall(3000))
    assert read_from(hub, remote) == CONTENT
    assert len(slept) == 1
    hub.close()


def test_a_download_waits_as_long_as_the_server_asks(
    fake: FakeHub, hub: Hub, slept: list[float]
) -> None:
    remote = remote_file(fake, hub)
    fake.misbehave("file", Status(429, {"Retry-After": "33"}), Status(500))
    assert read_from(hub, remote) == CONTENT
    assert slept == [33.0, 2.0]


def test_a_download_that_never_brings_anything_is_given_up(fake: FakeHub, hub: Hub) -> None:
    remote = remote_file(fake, hub)
    fake.misbehave("file", *[Cut(0)] * 9)
    with pytest.raises(DownloadFailed, match="failed 6 times in a row"):
        read_from(hub, remote)
    assert len(fake.downloads()) == 6


@pytest.mark.parametrize("claimed", [len(CONTENT) - 1, len(CONTENT) + 1])
def test_a_file_of_another_length_is_refused(fake: FakeHub, hub: Hub, claimed: int) -> None:
    remote = remote_file(fake, hub)
    fake.misbehave("file", Length(claimed), Length(claimed))
    for offset in (0, 100):
        with pytest.raises(DownloadFailed, match=f"the server has {claimed} bytes"):
            read_from(hub, remote, offset)


def test_a_status_that_makes_no_sense_is_not_waited_for(
    fake: FakeHub, hub: Hub, slept: list[float]
) -> None:
    fake.redirect = False
    remote = remote_file(fake, hub)
    fake.misbehave("file", Status(418))
    with pytest.raises(DownloadFailed, match="status 418"):
        read_from(hub, remote)
    assert slept == []


# Parts of a file.


def test_a_part_of_a_file_is_asked_for_and_no_more(fake: FakeHub, hub: Hub) -> None:
    remote = remote_file(fake, hub)
    assert b"".join(hub.open_range(remote, 100, 300)) == CONTENT[100:300]
    # The server counts what it has written, so perhaps after it was read.
    until(lambda: fake.sent_bytes)
    assert fake.sent_bytes == 200
    assert fake.downloads()[-1].range == "bytes=100-299"


def test_a_part_goes_on_after_a_cut(fake: FakeHub, hub: Hub) -> None:
    remote = remote_file(fake, hub)
    fake.misbehave("file", Cut(50))
    assert b"".join(hub.open_range(remote, 0, 200)) == CONTENT[:200]
    assert [seen.range for seen in fake.downloads()] == ["bytes=0-199", "bytes=50-199"]


def test_of_a_server_that_sends_everything_only_the_part_is_taken(fake: FakeHub, hub: Hub) -> None:
    remote = remote_file(fake, hub)
    fake.misbehave("file", IgnoreRange())
    assert b"".join(hub.open_range(remote, 10, 20)) == CONTENT[10:20]


def test_a_part_ends_where_the_file_does(fake: FakeHub, hub: Hub) -> None:
    remote = remote_file(fake, hub)
    size = len(CONTENT)
    assert b"".join(hub.open_range(remote, size - 5, size + 5)) == CONTENT[-5:]
