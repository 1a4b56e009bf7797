from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from gguf_worker.errors import DownloadFailed, ModelCorrupt, ModelUnavailable, ModelUnsupported
from gguf_worker.models.gguf import Header, read_header
from gguf_worker.models.source import Hub, parse_reference
from gguf_worker.models.source.web import WEB_FOLDER, Web
from gguf_worker.models.store import Store, inspection
from gguf_worker.models.store.entry import StoreEntry
from tests.fake_hub import COMMIT, FakeHub
from tests.local_server import Status
from tests.tiny_gguf import write_tiny
from tests.tiny_repository import NAME, REPO


@pytest.fixture
def fake() -> Iterator[FakeHub]:
    with FakeHub() as fake:
        yield fake


@pytest.fixture
def hub(fake: FakeHub) -> Iterator[Hub]:
    hub = Hub(fake.url, None, timeout=5, sleep=lambda seconds: None)
    yield hub
    hub.close()


@pytest.fixture
def store(hub: Hub, tmp_path: Path) -> Store:
    return Store(tmp_path / "volume", {"hub": hub, "web": Web()}, lambda progress: None)


def same_but_for_the_path(one: Header, other: Header) -> bool:
    return dataclasses.replace(one, path=other.path) == other


def test_of_a_model_on_the_hub_only_the_header_is_fetched(
    fake: FakeHub, store: Store, wide_model: Path
) -> None:
    fake.add(REPO, NAME, wide_model.read_bytes())
    found = store.inspect(parse_reference(f"{REPO}:F16"))
    assert same_but_for_the_path(found.header, read_header(wide_model))
    assert (found.where, found.source) == ("hub", f"{REPO}/{NAME}@{COMMIT}")
    size = wide_model.stat().st_size
    print(f"{fake.sent_bytes:,} of {size:,} bytes in {len(fake.downloads())} requests")
    assert fake.sent_bytes == found.fetched_bytes < size / 2
    assert 1 < len(fake.downloads()) < 6
    assert [(each.name, each.bytes) for each in found.files] == [(NAME, size)]


@pytest.mark.parametrize(
    ("known", "new", "says"),
    [
        (b"gpt-2", b"gpt-9", "pre-tokeniser .* 'gpt-9'"),
        (b"llama", b"alpac", "architecture 'alpac'"),
    ],
)
def test_a_large_model_that_llama_cpp_does_not_know_is_refused_before_its_download(
    fake: FakeHub,
    store: Store,
    wide_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    known: bytes,
    new: bytes,
    says: str,
) -> None:
    monkeypatch.setattr(inspection, "_LARGE_BYTES", 1 << 24)
    fake.add(REPO, NAME, wide_model.read_bytes().replace(known, new, 1))
    with pytest.raises(ModelUnsupported, match=says) as refused:
        store.ensure(parse_reference(f"{REPO}:F16"))
    assert refused.value.permanent
    size = wide_model.stat().st_size
    print(f"{fake.sent_bytes:,} of {size:,} bytes in {len(fake.downloads())} requests")
    assert fake.sent_bytes < size / 2
    assert not list((tmp_path / "volume").rglob("*.part"))


def test_a_header_that_cannot_be_read_now_does_not_keep_from_the_download(
    fake: FakeHub, store: Store, monkeypatch: pytest.MonkeyPatch, model_bytes: bytes
) -> None:
    monkeypatch.setattr(inspection, "_LARGE_BYTES", 0)
    fake.add(REPO, NAME, model_bytes)
    fake.misbehave("file", *[Status(503)] * 6)
    assert store.ensure(parse_reference(f"{REPO}:F16")).fetched
    assert [seen.range is None for seen in fake.downloads()] == [True] * 7


def test_nothing_of_it_is_left_on_the_volume(
    fake: FakeHub, store: Store, wide_model: Path, tmp_path: Path
) -> None:
    fake.add(REPO, NAME, wide_model.read_bytes())
    store.inspect(parse_reference(f"{REPO}:F16"))
    assert not (tmp_path / "volume").exists()


def test_the_tensors_are_counted_by_type_and_come_to_the_whole(
    fake: FakeHub, store: Store, wide_model: Path
) -> None:
    fake.add(REPO, NAME, wide_model.read_bytes())
    found = store.inspect(parse_reference(f"{REPO}:F16"))
    assert sum(each.bytes for each in found.tensors) == found.header.tensor_bytes
    assert sum(each.elements for each in found.tensors) == found.header.parameters
    sizes = [each.bytes for each in found.tensors]
    assert sizes == sorted(sizes, reverse=True)
    assert len({each.type for each in found.tensors}) == len(sizes)


def test_of_a_split_model_on_the_hub_the_headers_of_all_parts_are_read(
    fake: FakeHub, store: Store, tmp_path: Path
) -> None:
    first = write_tiny(tmp_path / "tiny-F16.gguf", tensors_per_file=8)
    parts = sorted(tmp_path.glob("*.gguf"))
    assert len(parts) > 1
    for part in parts:
        fake.add(REPO, f"F16/{part.name}", part.read_bytes())
    found = store.inspect(parse_reference(f"{REPO}:F16"))
    assert same_but_for_the_path(found.header, read_header(first))
    assert [each.name for each in found.files] == [f"F16/{part.name}" for part in parts]


def test_a_model_of_the_volume_is_read_there(fake: FakeHub, store: Store, wide_model: Path) -> None:
    fake.add(REPO, NAME, wide_model.read_bytes())
    reference = parse_reference(f"{REPO}/{NAME}")
    path = store.ensure(reference).path
    asked = len(fake.requests)
    found = store.inspect(reference)
    assert (found.where, found.header.path, found.fetched_bytes) == ("volume", path, 0)
    assert len(fake.requests) == asked


def test_a_model_of_the_volume_under_another_name_is_found_after_asking_what_is_meant(
    fake: FakeHub, store: Store, wide_model: Path
) -> None:
    fake.add(REPO, NAME, wide_model.read_bytes())
    store.ensure(parse_reference(f"{REPO}/{NAME}"))
    sent = fake.sent_bytes
    assert store.inspect(parse_reference(f"{REPO}:F16")).where == "volume"
    assert fake.sent_bytes == sent


def test_a_local_file_is_read_where_it_lies(fake: FakeHub, store: Store, wide_model: Path) -> None:
    found = store.inspect(parse_reference(str(wide_model)))
    assert (found.where, found.source) == ("file", str(wide_model))
    assert found.header == read_header(wide_model)
    assert fake.requests == []


def test_a_model_from_an_address_is_read_where_it_was_fetched_to(
    store: Store, wide_model: Path, tmp_path: Path
) -> None:
    reference = parse_reference("https://example.com/large.gguf")
    entry = StoreEntry(tmp_path / "volume" / "models" / WEB_FOLDER, "ab" * 32, "large.gguf")
    entry.path.parent.mkdir(parents=True)
    entry.sidecar(".part").write_bytes(wide_model.read_bytes())
    entry.publish({"size": wide_model.stat().st_size, "sha256": "ab" * 32})
    found = store.inspect(reference, sha256="AB" * 32)
    assert (found.where, found.source) == ("volume", "https://example.com/large.gguf")


def test_a_file_that_is_damaged_on_the_hub_is_said_to_be_so_there(
    fake: FakeHub, store: Store, wide_model: Path
) -> None:
    fake.add(REPO, NAME, wide_model.read_bytes()[:-1000])
    with pytest.raises(ModelCorrupt, match="It is so on its server") as caught:
        store.inspect(parse_reference(f"{REPO}:F16"))
    assert "Delete it" not in caught.value.message


def test_what_is_no_model_is_refused_after_one_request(fake: FakeHub, store: Store) -> None:
    fake.add(REPO, NAME, b"<!DOCTYPE html>" + bytes(10_000_000))
    with pytest.raises(ModelCorrupt, match="web page"):
        store.inspect(parse_reference(f"{REPO}:F16"))
    assert len(fake.downloads()) == 1
    assert fake.sent_bytes <= 1 << 20


def test_a_hub_that_does_not_answer_is_named(fake: FakeHub, store: Store, wide_model: Path) -> None:
    fake.add(REPO, NAME, wide_model.read_bytes())
    fake.misbehave("file", *[Status(503)] * 6)
    with pytest.raises(DownloadFailed, match="503"):
        store.inspect(parse_reference(f"{REPO}:F16"))
    with pytest.raises(ModelUnavailable, match="no repository"):
        store.inspect(parse_reference("org/none:F16"))


def test_the_token_is_not_shown_to_the_host_that_has_the_files(
    fake: FakeHub, tmp_path: Path, wide_model: Path
) -> None:
    fake.token = "hf_secret"
    fake.add(REPO, NAME, wide_model.read_bytes())
    hub = Hub(fake.url, fake.token, timeout=5)
    store = Store(tmp_path, {"hub": hub}, lambda progress: None)
    assert store.inspect(parse_reference(f"{REPO}:F16")).where == "hub"
    assert {seen.authorization for seen in fake.requests if seen.host == "cdn"} == {None}
    hub.close()
