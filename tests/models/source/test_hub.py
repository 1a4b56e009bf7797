from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from gguf_worker.errors import ConfigError, DownloadFailed, ModelUnavailable, ModelUnsupported
from gguf_worker.models.source import Hub
from gguf_worker.models.source.hub_reference import HubFile, HubQuant
from gguf_worker.models.source.remote import RemoteFile
from tests.fake_hub import COMMIT, FakeHub
from tests.local_server import Cut, IgnoreRange, Length, Stall, Status, Text

REPO = "org/Model-GGUF"
CONTENT = bytes(range(256)) * 40


@pytest.fixture
def fake() -> Iterator[FakeHub]:
    with FakeHub() as fake:
        yield fake


@pytest.fixture
def slept() -> list[float]:
    return []


@pytest.fixture
def hub(fake: FakeHub, slept: list[float]) -> Iterator[Hub]:
    hub = Hub(fake.url, None, timeout=5, sleep=slept.append, jitter=lambda: 1.0)
    yield hub
    hub.close()


def _add(fake: FakeHub, *names: str) -> None:
    for name in names:
        fake.add(REPO, name, CONTENT)


def _remote(fake: FakeHub, hub: Hub) -> RemoteFile:
    _add(fake, "a.gguf")
    return _only(hub.resolve(HubFile(REPO, "a.gguf"), "main"))


# Which file is meant.


def _only(files: tuple[RemoteFile, ...]) -> RemoteFile:
    (file,) = files
    return file


def test_a_file_is_resolved_with_its_commit_size_and_hash(fake: FakeHub, hub: Hub) -> None:
    remote = _remote(fake, hub)
    assert remote.repo == REPO
    assert remote.commit == COMMIT
    assert remote.size == len(CONTENT)
    assert remote.sha256 is not None
    assert len(remote.sha256) == 64
    assert remote.url == f"{fake.url}/{REPO}/resolve/{COMMIT}/a.gguf"


def test_a_small_file_outside_of_lfs_has_no_hash(fake: FakeHub, hub: Hub) -> None:
    fake.add(REPO, "a.gguf", CONTENT, lfs=False)
    remote = _only(hub.resolve(HubFile(REPO, "a.gguf"), "main"))
    assert (remote.size, remote.sha256) == (len(CONTENT), None)


@pytest.mark.parametrize(
    ("quant", "names", "expected"),
    [
        ("q4_k_m", ["m-Q4_K_M.gguf", "m-Q4_K_S.gguf", "m-Q8_0.gguf"], "m-Q4_K_M.gguf"),
        ("Q4_K_M", ["m.q4_k_m.gguf", "m.q4_k_s.gguf"], "m.q4_k_m.gguf"),
        ("Q8_0", ["Q8_0/m-Q8_0.gguf", "Q4_0/m-Q4_0.gguf"], "Q8_0/m-Q8_0.gguf"),
        ("BF16", ["BF16/model.gguf", "F16/model.gguf"], "BF16/model.gguf"),
        ("F16", ["m-F16.gguf", "m-BF16.gguf"], "m-F16.gguf"),
        ("Q4_K_M", ["m-Q4_K_M.gguf", "m-UD-Q4_K_M.gguf"], "m-Q4_K_M.gguf"),
        ("UD-Q4_K_M", ["m-Q4_K_M.gguf", "m-UD-Q4_K_M.gguf"], "m-UD-Q4_K_M.gguf"),
        ("Q4_K_M", ["m-UD-Q4_K_M.gguf", "m-Q8_0.gguf"], "m-UD-Q4_K_M.gguf"),
        ("IQ4_XS", ["ggml-model-IQ4_XS.gguf", "ggml-model-Q4_0.gguf"], "ggml-model-IQ4_XS.gguf"),
        ("q4_0", ["model_q4_0.gguf", "model_q4_1.gguf"], "model_q4_0.gguf"),
        ("Q8_0", ["m-Q8_0.gguf", "mmproj-m-Q8_0.gguf", "imatrix-Q8_0.gguf"], "m-Q8_0.gguf"),
        (None, ["m-Q2_K.gguf", "m-Q4_K_M.gguf", "m-Q8_0.gguf"], "m-Q4_K_M.gguf"),
        (None, ["only.gguf", "mmproj-only.gguf"], "only.gguf"),
    ],
)
def test_a_quantisation_finds_its_file(
    fake: FakeHub, hub: Hub, quant: str | None, names: list[str], expected: str
) -> None:
    _add(fake, "README.md", *names)
    assert _only(hub.resolve(HubQuant(REPO, quant), "main")).file == expected


@pytest.mark.parametrize(
    ("quant", "names", "error", "says"),
    [
        ("Q5_0", ["m-Q4_0.gguf", "m-Q8_0.gguf"], ModelUnavailable, "It has Q4_0, Q8_0"),
        ("Q4_K", ["m-Q4_K_M.gguf", "m-Q4_K_S.gguf"], ModelUnavailable, "It has Q4_K_M, Q4_K_S"),
        ("Q8_0", ["a-Q8_0.gguf", "b-Q8_0.gguf"], ConfigError, f"{REPO}/a-Q8_0.gguf, {REPO}/b"),
        (None, ["m-Q5_0.gguf", "m-Q8_0.gguf"], ConfigError, f"{REPO}:Q5_0, {REPO}:Q8_0"),
        (None, ["README.md", "mmproj-F16.gguf"], ModelUnavailable, "has no GGUF model"),
        (
            "Q8_0",
            ["m-Q8_0-00001-of-00003.gguf", "m-Q8_0-00003-of-00003.gguf"],
            ModelUnavailable,
            "m-Q8_0-00002-of-00003.gguf is not at 'main'",
        ),
        (
            "Q8_0",
            ["a-Q8_0-00001-of-00001.gguf", "b-Q8_0-00001-of-00001.gguf"],
            ConfigError,
            "fits 2 files",
        ),
    ],
)
def test_a_quantisation_that_is_absent_or_unclear_is_answered_with_the_choices(
    fake: FakeHub,
    hub: Hub,
    quant: str | None,
    names: list[str],
    error: type[Exception],
    says: str,
) -> None:
    _add(fake, *names)
    with pytest.raises(error, match=says):
        hub.resolve(HubQuant(REPO, quant), "main")


@pytest.mark.parametrize("quant", [None, "F16", "Q8_0"])
@pytest.mark.parametrize("name", ["mmproj-F16.gguf", "mmproj/m-F16.gguf", "m-mmproj-f16.gguf"])
def test_a_projector_is_never_taken_for_the_model(
    fake: FakeHub, hub: Hub, name: str, quant: str | None
) -> None:
    _add(fake, name, "m-Q8_0.gguf")
    if quant == "F16":
        with pytest.raises(ModelUnavailable, match="It has Q8_0"):
            hub.resolve(HubQuant(REPO, quant), "main")
    else:
        assert _only(hub.resolve(HubQuant(REPO, quant), "main")).file == "m-Q8_0.gguf"


@pytest.mark.parametrize("others", [["m-Q8_0.gguf"], []])
def test_a_projector_that_is_named_is_told_for_what_it_is(
    fake: FakeHub, hub: Hub, others: list[str]
) -> None:
    _add(fake, "mmproj-F16.gguf", *others)
    with pytest.raises(ModelUnsupported, match=r"is a projector \(mmproj\)") as refused:
        hub.resolve(HubFile(REPO, "mmproj-F16.gguf"), "main")
    assert refused.value.permanent
    assert refused.value.message.endswith(
        "Name the model: m-Q8_0.gguf." if others else "text only."
    )


def test_a_missing_file_is_answered_with_near_names(fake: FakeHub, hub: Hub) -> None:
    _add(fake, "model-Q4_K_M.gguf", "model-Q8_0.gguf")
    with pytest.raises(ModelUnavailable, match=r"no file model-Q4_KM\.gguf .*model-Q4_K_M\.gguf"):
        hub.resolve(HubFile(REPO, "model-Q4_KM.gguf"), "main")


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
    _add(fake, *reversed(parts), "m-Q4_0.gguf")
    assert [each.file for each in hub.resolve(reference, "main")] == parts


def test_a_model_in_one_file_is_preferred_to_the_same_one_split(fake: FakeHub, hub: Hub) -> None:
    _add(fake, "m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf", "m-Q8_0.gguf")
    assert _only(hub.resolve(HubQuant(REPO, "Q8_0"), "main")).file == "m-Q8_0.gguf"


def test_a_name_that_would_leave_its_folder_is_never_chosen(fake: FakeHub, hub: Hub) -> None:
    _add(fake, "../../evil-Q8_0.gguf", "good-Q8_0.gguf")
    assert _only(hub.resolve(HubQuant(REPO, "Q8_0"), "main")).file == "good-Q8_0.gguf"


def test_a_commit_that_is_no_commit_is_not_believed(fake: FakeHub, hub: Hub) -> None:
    fake.add(REPO, "a.gguf", CONTENT, commit="../../evil")
    with pytest.raises(DownloadFailed, match="no usable metadata"):
        hub.resolve(HubFile(REPO, "a.gguf"), "main")


def test_an_unknown_repository_or_revision_is_named(fake: FakeHub, hub: Hub) -> None:
    _add(fake, "a.gguf")
    with pytest.raises(ModelUnavailable, match="there is no repository org/other"):
        hub.resolve(HubFile("org/other", "a.gguf"), "main")
    with pytest.raises(ModelUnavailable, match="no revision 'v2'"):
        hub.resolve(HubFile(REPO, "a.gguf"), "v2")


def test_without_a_token_a_closed_repository_says_what_to_do(fake: FakeHub, hub: Hub) -> None:
    fake.token = "hf_secret"
    _add(fake, "a.gguf")
    with pytest.raises(ModelUnavailable, match=r"no HF_TOKEN is set .*accept the licence"):
        hub.resolve(HubFile(REPO, "a.gguf"), "main")


def test_with_a_token_that_does_not_do_the_token_is_blamed_and_not_shown(fake: FakeHub) -> None:
    fake.token = "hf_secret"
    _add(fake, "a.gguf")
    hub = Hub(fake.url, "hf_other", sleep=lambda seconds: None)
    with pytest.raises(ModelUnavailable, match="HF_TOKEN gives no access") as refused:
        hub.resolve(HubFile(REPO, "a.gguf"), "main")
    assert "hf_other" not in str(refused.value)


# Trouble that may pass.


def test_the_hub_is_asked_again_after_an_error_of_its_own(
    fake: FakeHub, hub: Hub, slept: list[float]
) -> None:
    fake.misbehave("info", Status(500), Status(503), Text("<html>Sign in</html>"))
    assert _remote(fake, hub).size == len(CONTENT)
    assert slept == [1.0, 2.0, 4.0]


def test_a_server_that_asks_to_wait_is_obeyed(fake: FakeHub, hub: Hub, slept: list[float]) -> None:
    dates = {
        "Date": "Wed, 21 Oct 2015 07:28:00 GMT",
        "Retry-After": "Wed, 21 Oct 2015 07:28:42 GMT",
    }
    fake.misbehave("info", Status(429, {"Retry-After": "17"}), Status(503, dates))
    _remote(fake, hub)
    assert slept == [17.0, 42.0]


def test_a_server_that_asks_to_wait_for_too_long_is_given_up(
    fake: FakeHub, hub: Hub, slept: list[float]
) -> None:
    fake.misbehave("info", Status(429, {"Retry-After": "3600"}))
    with pytest.raises(DownloadFailed) as refused:
        _remote(fake, hub)
    assert refused.value.retry_after == 3600
    assert slept == []


def test_a_hub_that_stays_broken_is_a_failure_that_may_pass(
    fake: FakeHub, hub: Hub, slept: list[float]
) -> None:
    fake.misbehave("info", *[Status(502)] * 9)
    with pytest.raises(DownloadFailed, match=r"failed 6 times in a row.* 502") as refused:
        _remote(fake, hub)
    assert not refused.value.permanent
    assert slept == [1.0, 2.0, 4.0, 8.0, 16.0]


def test_a_hub_that_is_not_there_is_a_failure_that_may_pass(slept: list[float]) -> None:
    hub = Hub("http://127.0.0.1:9", None, sleep=slept.append)
    with pytest.raises(DownloadFailed, match="ConnectError"):
        hub.resolve(HubFile(REPO, "a.gguf"), "main")
    assert len(slept) == 5


# A file's bytes.


def _read(hub: Hub, remote: RemoteFile, offset: int = 0) -> bytes:
    return b"".join(hub.open_range(remote, offset))


def test_a_file_is_read_from_any_offset(fake: FakeHub, hub: Hub) -> None:
    remote = _remote(fake, hub)
    assert _read(hub, remote) == CONTENT
    assert _read(hub, remote, 1000) == CONTENT[1000:]
    assert _read(hub, remote, len(CONTENT)) == b""
    assert [seen.range for seen in fake.downloads()] == [None, "bytes=1000-"]


def test_the_token_goes_to_the_hub_and_not_to_the_host_it_redirects_to(fake: FakeHub) -> None:
    fake.token = "hf_secret"
    hub = Hub(fake.url, "hf_secret")
    assert _read(hub, _remote(fake, hub)) == CONTENT
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
    remote = _remote(fake, guarded)
    fake.elsewhere = f"http://cdn.test:{fake.cdn_port}"
    assert _read(guarded, remote) == CONTENT
    assert _only(guarded.resolve(HubFile(REPO, "a.gguf"), "main")) == remote
    seen = [(each.name, each.authorization) for each in fake.requests if each.host == "cdn"]
    assert seen == [(f"cdn.test:{fake.cdn_port}", None)] * 2


@pytest.mark.parametrize("host", ["localhost", "127.0.0.2", "[::1]", "10.0.0.7", "169.254.169.254"])
def test_a_redirect_to_a_private_address_is_not_followed(
    fake: FakeHub, hub: Hub, slept: list[float], host: str
) -> None:
    remote = _remote(fake, hub)
    fake.elsewhere = f"http://{host}:{fake.cdn_port}"
    with pytest.raises(DownloadFailed, match=r"which is not on the public .* check HF_ENDPOINT"):
        _read(hub, remote)
    with pytest.raises(DownloadFailed, match="which is not on the public"):
        hub.resolve(HubFile(REPO, "a.gguf"), "main")
    assert {each.host for each in fake.requests} == {"hub"}
    assert slept == []


def test_all_addresses_of_a_name_have_to_be_public(fake: FakeHub, guarded: Hub) -> None:
    remote = _remote(fake, guarded)
    fake.elsewhere = f"http://inside.test:{fake.cdn_port}"
    with pytest.raises(DownloadFailed, match=r"inside\.test is at 10\.0\.0\.7"):
        _read(guarded, remote)


def test_a_name_without_an_address_may_have_one_later(
    fake: FakeHub, guarded: Hub, slept: list[float]
) -> None:
    remote = _remote(fake, guarded)
    fake.elsewhere = f"http://nowhere.test:{fake.cdn_port}"
    with pytest.raises(DownloadFailed, match=r"nowhere\.test has no address"):
        _read(guarded, remote)
    assert len(slept) == 5


def test_the_hub_that_was_set_may_be_private_and_send_on_to_itself(fake: FakeHub, hub: Hub) -> None:
    assert _read(hub, _remote(fake, hub)) == CONTENT
    assert fake.downloads()[0].host == "cdn"


def test_redirects_in_a_circle_are_left(fake: FakeHub, hub: Hub, slept: list[float]) -> None:
    remote = _remote(fake, hub)
    fake.elsewhere = fake.url
    with pytest.raises(DownloadFailed, match="redirects too often"):
        _read(hub, remote)
    assert slept == []


# Connections that fail.


def test_a_cut_connection_is_taken_up_where_it_ended(
    fake: FakeHub, hub: Hub, slept: list[float]
) -> None:
    remote = _remote(fake, hub)
    fake.misbehave("file", Cut(3000), Cut(0), Cut(2000))
    assert _read(hub, remote) == CONTENT
    ranges = [seen.range for seen in fake.downloads()]
    assert ranges == [None, "bytes=3000-", "bytes=3000-", "bytes=5000-"]
    assert slept == [1.0, 2.0, 4.0]


def test_a_server_that_ignores_ranges_is_read_over(fake: FakeHub, hub: Hub) -> None:
    remote = _remote(fake, hub)
    fake.misbehave("file", Cut(3000), IgnoreRange())
    assert _read(hub, remote) == CONTENT


def test_a_connection_that_falls_silent_is_left(fake: FakeHub, slept: list[float]) -> None:
    hub = Hub(fake.url, None, timeout=0.3, sleep=slept.append)
    remote = _remote(fake, hub)
    fake.misbehave("file", Stall(3000))
    assert _read(hub, remote) == CONTENT
    assert len(slept) == 1
    hub.close()


def test_a_download_waits_as_it_is_told(fake: FakeHub, hub: Hub, slept: list[float]) -> None:
    remote = _remote(fake, hub)
    fake.misbehave("file", Status(429, {"Retry-After": "33"}), Status(500))
    assert _read(hub, remote) == CONTENT
    assert slept == [33.0, 2.0]


def test_a_download_that_never_brings_anything_is_given_up(fake: FakeHub, hub: Hub) -> None:
    remote = _remote(fake, hub)
    fake.misbehave("file", *[Cut(0)] * 9)
    with pytest.raises(DownloadFailed, match="failed 6 times in a row"):
        _read(hub, remote)
    assert len(fake.downloads()) == 6


@pytest.mark.parametrize("claimed", [len(CONTENT) - 1, len(CONTENT) + 1])
def test_a_file_of_another_length_is_refused(fake: FakeHub, hub: Hub, claimed: int) -> None:
    remote = _remote(fake, hub)
    fake.misbehave("file", Length(claimed), Length(claimed))
    for offset in (0, 100):
        with pytest.raises(DownloadFailed, match=f"the server has {claimed} bytes"):
            _read(hub, remote, offset)


def test_a_file_that_has_gone_or_been_closed_is_unavailable(fake: FakeHub, hub: Hub) -> None:
    remote = _remote(fake, hub)
    fake.misbehave("file", Status(404), Status(403))
    with pytest.raises(ModelUnavailable, match=f"{REPO}/a.gguf is no longer"):
        _read(hub, remote)
    with pytest.raises(ModelUnavailable, match="no HF_TOKEN is set"):
        _read(hub, remote)


def test_a_status_that_makes_no_sense_is_not_waited_for(
    fake: FakeHub, hub: Hub, slept: list[float]
) -> None:
    remote = _remote(fake, hub)
    fake.misbehave("file", Status(418))
    with pytest.raises(DownloadFailed, match="status 418"):
        _read(hub, remote)
    assert slept == []


# Parts of a file.


def test_a_part_of_a_file_is_asked_for_and_no_more(fake: FakeHub, hub: Hub) -> None:
    remote = _remote(fake, hub)
    assert b"".join(hub.open_range(remote, 100, 300)) == CONTENT[100:300]
    deadline = time.monotonic() + 5
    while not fake.sent_bytes and time.monotonic() < deadline:
        time.sleep(0.005)  # the server counts what it has written, so perhaps after it was read
    assert fake.sent_bytes == 200
    assert fake.downloads()[-1].range == "bytes=100-299"


def test_a_part_goes_on_after_a_cut(fake: FakeHub, hub: Hub) -> None:
    remote = _remote(fake, hub)
    fake.misbehave("file", Cut(50))
    assert b"".join(hub.open_range(remote, 0, 200)) == CONTENT[:200]
    assert [seen.range for seen in fake.downloads()] == ["bytes=0-199", "bytes=50-199"]


def test_of_a_server_that_sends_everything_only_the_part_is_taken(fake: FakeHub, hub: Hub) -> None:
    remote = _remote(fake, hub)
    fake.misbehave("file", IgnoreRange())
    assert b"".join(hub.open_range(remote, 10, 20)) == CONTENT[10:20]


def test_a_part_ends_where_the_file_does(fake: FakeHub, hub: Hub) -> None:
    remote = _remote(fake, hub)
    size = len(CONTENT)
    assert b"".join(hub.open_range(remote, size - 5, size + 5)) == CONTENT[-5:]
