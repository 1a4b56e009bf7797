from __future__ import annotations

from collections.abc import Iterator

import pytest

from gguf_worker.errors import DownloadFailed, ModelUnavailable
from gguf_worker.models.source import FixedPlace, Hub
from gguf_worker.models.source.hub_reference import HubFile, HubQuant
from tests.fake_hub import COMMIT, FakeHub
from tests.local_server import Cut, Status
from tests.models.source.conftest import CONTENT, REPO, add_files, only, read_from, remote_file


def test_a_file_is_resolved_with_its_commit_size_and_hash(fake: FakeHub, hub: Hub) -> None:
    remote = remote_file(fake, hub)
    assert remote.repo == REPO
    assert remote.commit == COMMIT
    assert remote.size == len(CONTENT)
    assert remote.sha256 is not None
    assert len(remote.sha256) == 64
    assert remote.url == f"{fake.url}/{REPO}/resolve/{COMMIT}/a.gguf"


def test_a_small_file_outside_of_lfs_has_no_hash(fake: FakeHub, hub: Hub) -> None:
    fake.add(REPO, "a.gguf", CONTENT, lfs=False)
    remote = only(hub.resolve(HubFile(REPO, "a.gguf"), "main"))
    assert (remote.size, remote.sha256) == (len(CONTENT), None)


@pytest.mark.parametrize(
    "reference",
    [
        HubQuant(REPO, "Q8_0"),
        HubFile(REPO, "Q8_0/m-Q8_0-00001-of-00002.gguf"),
        HubFile(REPO, "Q8_0/m-Q8_0-00002-of-00002.gguf"),
    ],
    ids=str,
)
def test_a_split_model_is_resolved_to_all_of_its_parts(
    fake: FakeHub, hub: Hub, reference: HubQuant | HubFile
) -> None:
    parts = ["Q8_0/m-Q8_0-00001-of-00002.gguf", "Q8_0/m-Q8_0-00002-of-00002.gguf"]
    add_files(fake, *reversed(parts), "m-Q4_0.gguf")
    assert [each.file for each in hub.resolve(reference, "main")] == parts


def test_a_commit_that_is_no_commit_is_not_believed(fake: FakeHub, hub: Hub) -> None:
    fake.add(REPO, "a.gguf", CONTENT, commit="../../evil")
    with pytest.raises(DownloadFailed, match="no usable metadata"):
        hub.resolve(HubFile(REPO, "a.gguf"), "main")


def test_an_unknown_repository_or_revision_is_named(fake: FakeHub, hub: Hub) -> None:
    add_files(fake, "a.gguf")
    with pytest.raises(ModelUnavailable, match="there is no repository org/other"):
        hub.resolve(HubFile("org/other", "a.gguf"), "main")
    with pytest.raises(ModelUnavailable, match="no revision 'v2'"):
        hub.resolve(HubFile(REPO, "a.gguf"), "v2")


def test_without_a_token_a_closed_repository_says_what_to_do(fake: FakeHub, hub: Hub) -> None:
    fake.token = "hf_secret"
    add_files(fake, "a.gguf")
    with pytest.raises(ModelUnavailable, match=r"no HF_TOKEN is set .*accept the licence"):
        hub.resolve(HubFile(REPO, "a.gguf"), "main")


def test_with_a_token_that_does_not_do_the_token_is_blamed_and_not_shown(fake: FakeHub) -> None:
    fake.token = "hf_secret"
    add_files(fake, "a.gguf")
    hub = Hub(fake.url, "hf_other", sleep=lambda seconds: None)
    with pytest.raises(ModelUnavailable, match="HF_TOKEN gives no access") as refused:
        hub.resolve(HubFile(REPO, "a.gguf"), "main")
    assert "hf_other" not in str(refused.value)


def test_a_file_is_read_from_any_offset(fake: FakeHub, hub: Hub) -> None:
    remote = remote_file(fake, hub)
    assert read_from(hub, remote) == CONTENT
    assert read_from(hub, remote, 1000) == CONTENT[1000:]
    assert read_from(hub, remote, len(CONTENT)) == b""
    assert [seen.range for seen in fake.downloads()] == [None, "bytes=1000-"]


def test_the_token_goes_to_the_hub_and_not_to_the_host_it_redirects_to(fake: FakeHub) -> None:
    fake.token = "hf_secret"
    hub = Hub(fake.url, "hf_secret")
    assert read_from(hub, remote_file(fake, hub)) == CONTENT
    hub.close()
    hosts = {seen.host: seen.authorization for seen in fake.requests}
    assert hosts == {"hub": "Bearer hf_secret", "cdn": None}


# Where it may be sent on to.


def _resolve(host: str, port: int) -> list[str]:
    """Every name is of this machine, but for one that is also inside a network."""
    if host == "nowhere.test":
        raise OSError("no such name")
    return ["127.0.0.1", "10.0.0.7"] if host == "inside.test" else ["127.0.0.1"]


@pytest.fixture
def guarded(fake: FakeHub, slept: list[float]) -> Iterator[Hub]:
    """A hub for which this machine is the public internet."""
    hub = Hub(
        fake.url,
        "hf_secret",
        timeout=5,
        sleep=slept.append,
        resolve=_resolve,
        allowed=lambda address: address == "127.0.0.1",
    )
    yield hub
    hub.close()


def test_a_redirect_to_a_public_host_is_followed_without_the_token(
    fake: FakeHub, guarded: Hub
) -> None:
    remote = remote_file(fake, guarded)
    fake.elsewhere = f"http://cdn.test:{fake.cdn_port}"
    assert read_from(guarded, remote) == CONTENT
    assert only(guarded.resolve(HubFile(REPO, "a.gguf"), "main")) == remote
    seen = [(each.name, each.authorization) for each in fake.requests if each.host == "cdn"]
    assert seen == [(f"cdn.test:{fake.cdn_port}", None)] * 2


@pytest.mark.parametrize("host", ["localhost", "127.0.0.2", "[::1]", "10.0.0.7", "169.254.169.254"])
def test_a_redirect_to_a_private_address_is_not_followed(
    fake: FakeHub, hub: Hub, slept: list[float], host: str
) -> None:
    remote = remote_file(fake, hub)
    fake.elsewhere = f"http://{host}:{fake.cdn_port}"
    with pytest.raises(DownloadFailed, match=r"which is not on the public .* check HF_ENDPOINT"):
        read_from(hub, remote)
    with pytest.raises(DownloadFailed, match="which is not on the public"):
        hub.resolve(HubFile(REPO, "a.gguf"), "main")
    assert {each.host for each in fake.requests} == {"hub"}
    assert slept == []


def test_all_addresses_of_a_name_have_to_be_public(fake: FakeHub, guarded: Hub) -> None:
    remote = remote_file(fake, guarded)
    fake.elsewhere = f"http://inside.test:{fake.cdn_port}"
    with pytest.raises(DownloadFailed, match=r"inside\.test is at 10\.0\.0\.7"):
        read_from(guarded, remote)


def test_a_name_without_an_address_may_have_one_later(
    fake: FakeHub, guarded: Hub, slept: list[float]
) -> None:
    remote = remote_file(fake, guarded)
    fake.elsewhere = f"http://nowhere.test:{fake.cdn_port}"
    with pytest.raises(DownloadFailed, match=r"nowhere\.test has no address"):
        read_from(guarded, remote)
    assert len(slept) == 5


def test_the_hub_that_was_set_may_be_private_and_send_on_to_itself(fake: FakeHub, hub: Hub) -> None:
    assert read_from(hub, remote_file(fake, hub)) == CONTENT
    assert fake.downloads()[0].host == "cdn"


def test_redirects_in_a_circle_are_left(fake: FakeHub, hub: Hub, slept: list[float]) -> None:
    remote = remote_file(fake, hub)
    fake.elsewhere = fake.url
    with pytest.raises(DownloadFailed, match="redirects too often"):
        read_from(hub, remote)
    assert slept == []


def test_a_file_that_has_gone_or_been_closed_is_unavailable(fake: FakeHub, hub: Hub) -> None:
    fake.redirect = False
    remote = remote_file(fake, hub)
    fake.misbehave("file", Status(404), Status(403))
    with pytest.raises(ModelUnavailable, match=f"{REPO}/a.gguf is no longer"):
        read_from(hub, remote)
    with pytest.raises(ModelUnavailable, match="no HF_TOKEN is set"):
        read_from(hub, remote)


# A host behind a redirect is not the Hub.


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_a_refusal_behind_a_redirect_is_no_verdict_and_the_hub_is_asked_for_a_new_address(
    fake: FakeHub, hub: Hub, slept: list[float], status: int
) -> None:
    remote = remote_file(fake, hub)
    fake.requests.clear()
    fake.misbehave("file", Cut(3000), Status(status))
    assert read_from(hub, remote) == CONTENT
    rest = "bytes=3000-"
    assert [(seen.host, seen.range) for seen in fake.requests] == [
        *(("hub", None), ("cdn", None)),
        *(("hub", rest), ("cdn", rest)) * 2,
    ]
    assert slept == [1.0, 2.0]


def test_a_refusal_behind_a_redirect_that_stays_is_a_failure_that_may_pass(
    fake: FakeHub, hub: Hub, slept: list[float]
) -> None:
    remote = remote_file(fake, hub)
    fake.misbehave("file", *[Status(403)] * 9)
    with pytest.raises(DownloadFailed, match=r"6 times .* sends on to, .* status 403") as refused:
        read_from(hub, remote)
    assert not refused.value.permanent
    assert len(slept) == 5


def test_a_host_behind_a_redirect_that_names_a_time_is_obeyed(
    fake: FakeHub, hub: Hub, slept: list[float]
) -> None:
    remote = remote_file(fake, hub)
    fake.misbehave("file", Status(403, {"Retry-After": "21"}))
    assert read_from(hub, remote) == CONTENT
    assert slept == [21.0]


def test_what_the_hub_itself_says_counts_behind_a_redirect_too(
    fake: FakeHub, hub: Hub, slept: list[float]
) -> None:
    """A mirror may send everything on to the Hub, whose answers have its own codes."""
    remote = remote_file(fake, hub)
    gated = {"X-Error-Code": "GatedRepo"}
    fake.misbehave("file", Status(403, gated), Status(404, {"X-Error-Code": "EntryNotFound"}))
    with pytest.raises(ModelUnavailable, match="accept the licence"):
        read_from(hub, remote)
    with pytest.raises(ModelUnavailable, match="is no longer"):
        read_from(hub, remote)
    assert slept == []


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_question_refused_behind_a_redirect_is_asked_again(
    fake: FakeHub, hub: Hub, slept: list[float], status: int
) -> None:
    fake.elsewhere = f"http://127.0.0.1:{fake.cdn_port}"
    fake.misbehave("info", Status(status))
    assert remote_file(fake, hub).size == len(CONTENT)
    assert slept == [1.0]


# Where it may lie on this machine.


def test_a_file_of_a_commit_has_a_fixed_place_and_nothing_else_has(hub: Hub) -> None:
    file, quant = HubFile(REPO, "a.gguf"), HubQuant(REPO, "Q8_0")
    assert hub.place(file, COMMIT, None) == FixedPlace(COMMIT, "a.gguf")
    part = HubFile(REPO, "a-00002-of-00002.gguf")
    assert hub.place(part, COMMIT, None) == FixedPlace(COMMIT, "a-00001-of-00002.gguf")
    assert hub.place(file, "main", None) is None
    assert hub.place(quant, COMMIT, None) is None
    assert hub.cacheable(quant) == quant


def test_what_goes_with_models_is_found_by_its_name_alone(fake: FakeHub, hub: Hub) -> None:
    fake.add(REPO, "chat_template.jinja", b"{{ messages }}", lfs=False)
    remote = only(hub.resolve(HubFile(REPO, "a.gguf").companion("chat_template.jinja"), COMMIT))
    assert (remote.file, remote.size, remote.sha256) == ("chat_template.jinja", 14, None)
    with pytest.raises(ModelUnavailable, match=r"no file chat\.jinja at .* chat_template\.jinja"):
        hub.resolve(HubFile(REPO, "a.gguf").companion("chat.jinja"), COMMIT)
