from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gguf_worker.errors import (
    ConfigError,
    DiskFull,
    DownloadFailed,
    ModelCorrupt,
    ModelUnavailable,
)
from gguf_worker.models.source import FixedPlace, Ranges, Reference, RemoteFile, remote
from gguf_worker.models.source.hub_reference import HubFile, HubQuant
from gguf_worker.models.source.reference import LocalFile
from gguf_worker.models.store import Inventory, Store
from gguf_worker.models.store import entry as entry_module
from gguf_worker.models.store.entry import Check
from gguf_worker.models.store.usage_marks import in_use
from tests.fake_hub import COMMIT, FakeHub
from tests.local_server import Stall, Status, Text
from tests.models.store.conftest import (
    FILE,
    NEWER,
    PUBLISHED,
    SPLIT,
    HeldRanges,
    Volume,
    sha256_of,
)
from tests.tiny_gguf import write_tiny
from tests.tiny_repository import NAME, REPO

# Files of this machine.


def test_a_local_file_is_used_where_it_lies(volume: Volume, tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "mine.gguf")
    found = volume.store().ensure(LocalFile(path))
    assert found.path == path
    assert found.header.name == "tiny llama"
    assert (found.sha256, found.source, found.fetched) == (None, str(path), False)
    assert not volume.root.exists()


def test_a_local_file_is_hashed_only_when_its_hash_is_given(volume: Volume, tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "mine.gguf")
    right = sha256_of(path.read_bytes())
    assert volume.store().ensure(LocalFile(path), sha256=right.upper()).sha256 == right
    with pytest.raises(ModelCorrupt, match=f"{right}, and {'0' * 64} was expected"):
        volume.store().ensure(LocalFile(path), sha256="0" * 64)


def test_a_local_file_that_is_missing_is_unavailable(volume: Volume, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="there is no file"):
        volume.store().ensure(LocalFile(tmp_path / "none.gguf"))


# Fetching and finding again.


def test_a_model_is_fetched_checked_and_published(
    volume: Volume, fake_hub: FakeHub, model_bytes: bytes
) -> None:
    found = volume.store().ensure(FILE)
    assert found.path == found.header.path == volume.model
    assert found.path.read_bytes() == model_bytes
    assert (found.sha256, found.fetched) == (sha256_of(model_bytes), True)
    assert found.source == f"{REPO}/{NAME}@{COMMIT}"
    assert volume.names() == PUBLISHED
    assert json.loads((volume.folder / f"{NAME}.json").read_text()) == {
        "repo": REPO,
        "file": NAME,
        "commit": COMMIT,
        "size": len(model_bytes),
        "sha256": sha256_of(model_bytes),
        "changed_ns": volume.model.stat().st_mtime_ns,
    }


def test_a_published_model_costs_one_question_to_the_hub(volume: Volume, fake_hub: FakeHub) -> None:
    first = volume.store().ensure(FILE)
    fake_hub.requests.clear()
    again = volume.store().ensure(FILE)
    assert (again.path, again.sha256, again.fetched) == (first.path, first.sha256, False)
    assert [seen.path for seen in fake_hub.requests] == [f"/api/models/{REPO}/revision/main"]


@pytest.mark.parametrize("reference", [FILE, HubQuant(REPO, "F16"), HubQuant(REPO)])
def test_a_published_commit_costs_none(
    volume: Volume, fake_hub: FakeHub, reference: HubFile | HubQuant
) -> None:
    volume.store().ensure(reference, revision=COMMIT)
    fake_hub.requests.clear()
    assert not volume.store().ensure(reference, revision=COMMIT).fetched
    assert fake_hub.requests == []


def test_two_references_to_one_file_share_it(volume: Volume, fake_hub: FakeHub) -> None:
    assert volume.store().ensure(FILE).fetched
    assert not volume.store().ensure(HubQuant(REPO, "f16")).fetched
    assert len(fake_hub.downloads()) == 1


def test_a_model_in_a_folder_of_its_repository_is_published_there(
    volume: Volume, fake_hub: FakeHub, model_bytes: bytes
) -> None:
    fake_hub.add(REPO, "F16/deep.gguf", model_bytes)
    found = volume.store().ensure(HubFile(REPO, "F16/deep.gguf"))
    assert found.path == volume.folder / "F16" / "deep.gguf"


def test_a_new_commit_is_fetched_beside_the_old_one(
    volume: Volume, fake_hub: FakeHub, model_bytes: bytes, tmp_path: Path
) -> None:
    volume.store().ensure(FILE)
    other = write_tiny(tmp_path / "other.gguf", seed=1).read_bytes()
    fake_hub.add(REPO, NAME, other, commit=NEWER)
    newer = volume.store().ensure(FILE)
    assert newer.path.read_bytes() == other
    assert volume.model.read_bytes() == model_bytes


# A commit that changed other files, such as the README.


def edit_readme(fake_hub: FakeHub, model_bytes: bytes) -> None:
    """Commit another README; the model's file stays."""
    fake_hub.add(REPO, NAME, model_bytes, commit=NEWER)
    fake_hub.add(REPO, "README.md", b"edited", commit=NEWER, lfs=False)


def test_an_edited_readme_downloads_nothing(
    volume: Volume, fake_hub: FakeHub, model_bytes: bytes
) -> None:
    limit = len(model_bytes) + 10_000
    used = volume.store(limit=limit).ensure(FILE)  # and still is, when another worker starts
    edit_readme(fake_hub, model_bytes)
    found = volume.store(limit=limit).ensure(FILE)
    assert len(fake_hub.downloads()) == 1
    assert (found.fetched, found.commit, found.sha256) == (False, NEWER, used.sha256)
    assert found.path.samefile(used.path)
    assert found.path != used.path
    assert Inventory(volume.root).total_bytes() < limit
    for commit in ("main", NEWER, COMMIT):
        offline = volume.store(offline=True, endpoint=NOWHERE).ensure(FILE, revision=commit)
        assert offline.path == (used.path if commit == COMMIT else found.path)


def test_workers_that_start_at_once_after_an_edit_share_one_file(
    volume: Volume, fake_hub: FakeHub, model_bytes: bytes, quick_leases: float
) -> None:
    first = volume.store().ensure(FILE)
    edit_readme(fake_hub, model_bytes)
    stores = [volume.store() for _ in range(6)]
    with ThreadPoolExecutor(len(stores)) as pool:
        found = list(pool.map(lambda store: store.ensure(FILE), stores))
    assert {each.path for each in found} == {volume.root / "models" / REPO / NEWER / NAME}
    assert found[0].path.samefile(first.path)
    assert len(fake_hub.downloads()) == 1


def test_the_parts_that_stayed_are_shared_and_the_others_are_fetched(
    volume: Volume, fake_hub: FakeHub, split: list[str], tmp_path: Path
) -> None:
    old = volume.store().ensure(SPLIT)
    before = len(fake_hub.downloads())
    other = write_tiny(tmp_path / "big-Q8_0.gguf", tensors_per_file=10, seed=1)
    for name in split:
        folder = other if name == split[-1] else old.path
        fake_hub.add("org/split", name, folder.with_name(name).read_bytes(), commit=NEWER)
    new = volume.store().ensure(SPLIT)
    asked = [seen.path.rpartition("/")[2] for seen in fake_hub.downloads()[before:]]
    assert asked == [split[-1]]
    shared = [a.samefile(b) for a, b in zip(old.files, new.files, strict=True)]
    assert shared == [True] * (len(split) - 1) + [False]


def test_a_damaged_file_of_another_commit_is_not_shared(
    volume: Volume, fake_hub: FakeHub, model_bytes: bytes
) -> None:
    volume.store().ensure(FILE)
    volume.model.write_bytes(model_bytes[:-1] + b"\xff")
    os.utime(volume.model, (1, 1))
    edit_readme(fake_hub, model_bytes)
    assert volume.store().ensure(FILE).path.read_bytes() == model_bytes
    assert len(fake_hub.downloads()) == 2


def test_without_hard_links_the_file_is_fetched(
    volume: Volume, fake_hub: FakeHub, model_bytes: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume.store().ensure(FILE)
    edit_readme(fake_hub, model_bytes)

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    found = volume.store().ensure(FILE)
    assert (found.fetched, found.commit) == (True, NEWER)
    assert len(fake_hub.downloads()) == 2


# A Hub that is away.

NOWHERE = "http://127.0.0.1:9"


@pytest.mark.parametrize("reference", [FILE, HubQuant(REPO, "F16"), HubQuant(REPO)])
def test_without_the_hub_a_published_model_is_used_with_a_warning(
    volume: Volume, caplog: pytest.LogCaptureFixture, reference: HubFile | HubQuant
) -> None:
    first = volume.store().ensure(reference)
    found = volume.store(endpoint=NOWHERE).ensure(reference)
    assert (found.path, found.fetched) == (first.path, False)
    assert f"using {found.source} as it was last seen" in caplog.text
    # A start is not held up for long by a Hub that is down: one further try.
    assert caplog.text.count("; trying again") == 1


@pytest.mark.parametrize(
    "answer",
    [
        Status(429, {"Retry-After": "110", "Content-Type": "text/html"}, "<html>Slow down"),
        Status(429, {"RateLimit": '"api";r=0;t=60'}, "<html>Slow down"),
        Status(429, {"RateLimit": '"api";r=0;t=243'}),
        *(Status(code) for code in (410, 451, 500, 502, 503, 504)),
        Status(503, {"Retry-After": "120"}),
        Text("<html>Sign in</html>"),
        Text('{"siblings": 3}'),
    ],
    ids=str,
)
def test_a_published_model_is_used_within_seconds_whatever_the_hub_says(
    volume: Volume, fake_hub: FakeHub, answer: Status | Text
) -> None:
    first = volume.store().ensure(FILE)
    fake_hub.misbehave("info", answer, answer)
    found = volume.store().ensure(FILE)
    assert (found.path, found.fetched) == (first.path, False)
    assert sum(volume.slept) <= 2


def test_a_published_model_is_used_without_names(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = volume.store().ensure(FILE)

    def getaddrinfo(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert volume.store(endpoint="https://hub.test").ensure(FILE).path == first.path
    assert sum(volume.slept) <= 2


def test_a_published_model_is_not_held_up_by_a_hub_that_falls_silent(
    volume: Volume, fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = volume.store().ensure(FILE)
    monkeypatch.setattr(remote, "_BRIEF_SECONDS", 0.1)
    fake_hub.misbehave("info", Stall(0), Stall(0))
    begun = time.monotonic()
    assert volume.store(timeout=5).ensure(FILE).path == first.path
    assert time.monotonic() - begun < 5, "one silence of the usual length"


@pytest.mark.parametrize(("reference", "revision"), [(FILE, "v2"), (HubQuant(REPO, "F16"), "main")])
def test_without_the_hub_nothing_else_is_taken_for_what_was_asked(
    volume: Volume, reference: HubFile | HubQuant, revision: str
) -> None:
    volume.store().ensure(FILE)
    with pytest.raises(DownloadFailed):
        volume.store(endpoint=NOWHERE).ensure(reference, revision=revision)


def test_a_hub_that_refuses_is_believed(volume: Volume, fake_hub: FakeHub) -> None:
    volume.store().ensure(FILE)
    fake_hub.misbehave("info", Status(403))
    with pytest.raises(ModelUnavailable, match="accept the licence"):
        volume.store().ensure(FILE)


# Nobody is to be asked.


@pytest.mark.parametrize("revision", ["main", COMMIT])
@pytest.mark.parametrize("reference", [FILE, HubQuant(REPO, "F16"), HubQuant(REPO)])
def test_offline_a_published_model_is_used_without_a_question(
    volume: Volume, fake_hub: FakeHub, reference: HubFile | HubQuant, revision: str
) -> None:
    first = volume.store().ensure(reference, revision=revision)
    fake_hub.requests.clear()
    store = volume.store(offline=True)
    found = store.ensure(reference, revision=revision)
    assert (found.path, found.sha256, found.fetched) == (first.path, first.sha256, False)
    assert store.inspect(reference, revision=revision).where == "volume"
    assert fake_hub.requests == []


@pytest.mark.parametrize(
    ("reference", "revision"),
    [(FILE, "v2"), (HubQuant(REPO, "Q8_0"), "main"), (HubFile("org/other", "a.gguf"), COMMIT)],
)
def test_offline_a_missing_model_is_reported_with_those_that_are_there(
    volume: Volume, fake_hub: FakeHub, reference: HubFile | HubQuant, revision: str
) -> None:
    volume.store().ensure(FILE)
    fake_hub.requests.clear()
    store = volume.store(offline=True)
    for attempt in (store.ensure, store.inspect):
        with pytest.raises(ModelUnavailable, match="with HF_HUB_OFFLINE nothing is") as refused:
            attempt(reference, revision=revision)
        assert f"{reference} at '{revision}' is not on this machine" in refused.value.message
        assert f"has {REPO}/{NAME} at {COMMIT}. Set" in refused.value.message
    assert fake_hub.requests == []


def test_offline_a_damaged_model_is_not_fetched_again(volume: Volume, fake_hub: FakeHub) -> None:
    volume.store().ensure(FILE)
    volume.model.write_bytes(volume.model.read_bytes()[:-1])
    fake_hub.requests.clear()
    with pytest.raises(ModelUnavailable, match="is not on this machine as a whole"):
        volume.store(offline=True).ensure(FILE)
    assert fake_hub.requests == []


def test_offline_a_volume_without_models_says_so(volume: Volume) -> None:
    with pytest.raises(ModelUnavailable, match="has no model"):
        volume.store(offline=True).ensure(FILE)


def test_a_hash_that_differs_from_the_hubs_is_refused_before_the_download(
    volume: Volume, fake_hub: FakeHub
) -> None:
    with pytest.raises(ModelCorrupt, match=f"on the Hub has .* {'0' * 64} was expected"):
        volume.store().ensure(FILE, sha256="0" * 64)
    assert fake_hub.downloads() == []


# Damage after publication.


@pytest.mark.parametrize("damage", ["truncated", "altered", "emptied"])
def test_a_published_model_found_damaged_is_put_aside_and_fetched_again(
    volume: Volume, fake_hub: FakeHub, model_bytes: bytes, damage: str
) -> None:
    volume.store().ensure(FILE)
    damaged = {
        "truncated": model_bytes[:-1],
        "altered": b"\0" * 4 + model_bytes[4:],
        "emptied": b"",
    }[damage]
    volume.model.write_bytes(damaged)
    found = volume.store().ensure(FILE)
    assert found.fetched
    assert found.path.read_bytes() == model_bytes
    assert (volume.folder / f"{NAME}.bad").read_bytes() == damaged


def test_a_model_without_a_readable_manifest_is_fetched_again(
    volume: Volume, fake_hub: FakeHub
) -> None:
    volume.store().ensure(FILE)
    (volume.folder / f"{NAME}.json").write_text("{")
    assert volume.store().ensure(FILE).fetched


def _alter(path: Path, *, stamp: int | None) -> None:
    """Change a weight, and the time of change to `stamp`, or leave it to the clock."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    if stamp is not None:
        os.utime(path, ns=(stamp, stamp))


@pytest.mark.parametrize("check", ["stamp", "full"])
def test_a_stored_model_that_was_written_to_is_found_out_and_fetched_again(
    volume: Volume, fake_hub: FakeHub, model_bytes: bytes, check: Check
) -> None:
    volume.store().ensure(FILE)
    _alter(volume.model, stamp=None)
    model = volume.store(check=check).ensure(FILE)
    assert model.fetched
    assert model.path.read_bytes() == model_bytes
    assert volume.names() == PUBLISHED | {f"{NAME}.bad"}


def test_a_change_that_left_no_trace_is_found_by_a_full_check_alone(
    volume: Volume, model_bytes: bytes
) -> None:
    volume.store().ensure(FILE)
    _alter(volume.model, stamp=volume.model.stat().st_mtime_ns)
    for check in ("off", "stamp"):
        assert not volume.store(check=check).ensure(FILE).fetched
    assert volume.store(check="full").ensure(FILE).fetched
    assert volume.model.read_bytes() == model_bytes


def test_what_a_hash_was_given_for_is_read_before_it_is_opened(
    volume: Volume, model_bytes: bytes
) -> None:
    sha256 = hashlib.sha256(model_bytes).hexdigest()
    first = volume.store().ensure(FILE)
    assert [each.file for each in first.entries] == [NAME]
    found = volume.store(check_given="full").ensure(FILE, sha256=sha256)
    assert (found.fetched, found.entries) == (False, ())
    times = volume.model.stat()
    volume.model.write_bytes(model_bytes[:-1] + b"?")
    os.utime(volume.model, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert not volume.store(check_given="full").ensure(FILE).fetched
    found = volume.store(check_given="full").ensure(FILE, sha256=sha256)
    assert found.fetched
    assert found.path.read_bytes() == model_bytes


def test_a_stored_model_that_was_only_touched_is_read_once_and_no_more(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume.store().ensure(FILE)
    os.utime(volume.model, ns=(1, 1))
    read: list[Path] = []
    real = entry_module.hash_of

    def hash_of(path: Path) -> str:
        read.append(path)
        return real(path)

    monkeypatch.setattr(entry_module, "hash_of", hash_of)
    for _ in range(2):
        assert not volume.store().ensure(FILE).fetched
    assert read == [volume.model]


def test_without_checks_a_model_that_was_written_to_is_used_if_it_is_as_long(
    volume: Volume,
) -> None:
    volume.store().ensure(FILE)
    _alter(volume.model, stamp=None)
    assert not volume.store(check="off").ensure(FILE).fetched
    volume.model.write_bytes(b"")
    assert volume.store(check="off").ensure(FILE).fetched


def test_a_look_at_a_stored_model_of_ten_gigabytes_reads_its_header_only(
    volume: Volume, model_bytes: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measured by the bytes that are read, not by the clock."""
    volume.store().ensure(FILE)
    os.truncate(volume.model, 10 << 30)
    manifest = json.loads((volume.folder / f"{NAME}.json").read_text())
    stamp = volume.model.stat().st_mtime_ns
    manifest |= {"size": 10 << 30, "changed_ns": stamp}
    (volume.folder / f"{NAME}.json").write_text(json.dumps(manifest))
    before = _bytes_read()
    model = volume.store().ensure(FILE, revision=COMMIT)
    assert (model.path, model.fetched) == (volume.model, False)
    assert _bytes_read() - before < 4 << 20


def _bytes_read() -> int:
    """Return the bytes that this process has read, with all its calls."""
    return int(Path("/proc/self/io").read_text().split()[1])


def test_a_volume_that_cannot_be_written_is_a_matter_of_configuration(
    fake_hub: FakeHub, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    volume = Volume(tmp_path / "file", fake_hub)
    with pytest.raises(ConfigError, match="cannot be written") as refused:
        volume.store().ensure(FILE)
    assert refused.value.param == "VOLUME_PATH"
    volume.close()


def test_a_link_out_of_the_volume_is_not_followed(
    volume: Volume, tmp_path: Path, fake_hub: FakeHub
) -> None:
    (tmp_path / "outside").mkdir()
    (volume.root / "models").mkdir(parents=True)
    (volume.root / "models" / "org").symlink_to(tmp_path / "outside")
    with pytest.raises(ConfigError, match="lies outside of"):
        volume.store().ensure(FILE)
    assert fake_hub.downloads() == []
    assert list((tmp_path / "outside").iterdir()) == []


# Models in use, and those that make way.


def test_a_model_is_in_use_until_the_store_is_closed(volume: Volume) -> None:
    for _ in range(2):  # fetched, and found
        store = volume.store()
        path = store.ensure(FILE).path
        assert in_use(path)
        store.close()
        assert not in_use(path)
    assert len(list(volume.folder.glob("*.use.*"))) == 1


def test_a_model_that_could_not_be_had_is_not_in_use(volume: Volume, fake_hub: FakeHub) -> None:
    fake_hub.misbehave("file", Status(403, {"X-Error-Code": "GatedRepo"}))
    with pytest.raises(ModelUnavailable):
        volume.store().ensure(FILE)
    assert not in_use(volume.model)


def test_a_model_that_is_being_fetched_is_in_use(volume: Volume, fake_hub: FakeHub) -> None:
    fake_hub.before_file.clear()
    with ThreadPoolExecutor() as pool:
        got = pool.submit(volume.store().ensure, FILE)
        assert fake_hub.file_asked.wait(10)
        assert in_use(volume.model)
        fake_hub.before_file.set()
        got.result(20)


def test_an_older_commit_is_removed_under_a_limit_unless_a_worker_uses_it(
    volume: Volume, fake_hub: FakeHub, model_bytes: bytes, tmp_path: Path
) -> None:
    first = volume.store()
    first.ensure(FILE)
    other = write_tiny(tmp_path / "other.gguf", seed=1).read_bytes()
    fake_hub.add(REPO, NAME, other, commit=NEWER)
    limit = len(model_bytes) + len(other) // 2
    with pytest.raises(DiskFull, match="VOLUME_MAX_GB allows"):
        volume.store(limit=limit).ensure(FILE)
    assert volume.model.exists()
    first.close()
    assert volume.store(limit=limit).ensure(FILE).path.read_bytes() == other
    assert not volume.model.exists()


# Models that others have put into the Hub's own cache.


def _cache(root: Path, data: bytes) -> Path:
    path = root / f"models--{REPO.replace('/', '--')}" / "snapshots" / COMMIT / NAME
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    return path


def test_a_cached_model_is_used_where_it_lies_and_the_hub_is_not_asked(
    volume: Volume, fake_hub: FakeHub, model_bytes: bytes, tmp_path: Path
) -> None:
    path = _cache(tmp_path / "cache", model_bytes)
    for reference in (FILE, HubQuant(REPO)):
        model = volume.store(caches=[tmp_path / "cache"]).ensure(reference)
        assert (model.path, model.fetched) == (path, False)
        assert model.source == f"{REPO}/{NAME}@{COMMIT}"
    assert not fake_hub.requests


def test_a_damaged_cached_model_is_not_used(
    volume: Volume, model_bytes: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _cache(tmp_path / "cache", model_bytes[:-1])
    model = volume.store(caches=[tmp_path / "cache"]).ensure(FILE)
    assert (model.path, model.fetched) == (volume.model, True)
    assert "the cached model is not used" in caplog.text


def test_a_cached_model_of_another_hash_than_the_given_one_is_not_used(
    volume: Volume, model_bytes: bytes, tmp_path: Path
) -> None:
    path = _cache(tmp_path / "cache", model_bytes[:-1] + bytes([model_bytes[-1] ^ 1]))
    store = volume.store(caches=[tmp_path / "cache"])
    assert store.ensure(FILE, sha256=sha256_of(model_bytes)).path == volume.model
    path.write_bytes(model_bytes)
    assert store.ensure(FILE, sha256=sha256_of(model_bytes)).path == path


# Split models.


def test_all_parts_of_a_split_model_are_fetched_and_the_first_is_opened(
    volume: Volume, fake_hub: FakeHub, split: list[str]
) -> None:
    model = volume.store().ensure(SPLIT)
    assert (model.path.name, model.fetched) == (split[0], True)
    assert {path.name for path in model.path.parent.glob("*.gguf")} == set(split)
    assert len(fake_hub.downloads()) == len(split) > 2
    again = volume.store().ensure(SPLIT)
    assert (again.path, again.fetched) == (model.path, False)
    assert len(fake_hub.downloads()) == len(split)


@pytest.mark.parametrize("revision", ["main", COMMIT])
@pytest.mark.parametrize("number", [0, 1, -1])
def test_a_split_model_is_found_again_by_the_name_of_any_part(
    volume: Volume, split: list[str], number: int, revision: str
) -> None:
    part = HubFile("org/split", split[number])
    first = volume.store().ensure(part, revision=revision)
    again = volume.store().ensure(part, revision=revision)
    assert (again.path, again.fetched) == (first.path, False)
    assert again.path.name == split[0]
    offline = volume.store(offline=True).ensure(part, revision=revision)
    assert offline.path == first.path
    assert volume.store().inspect(part, revision=revision).where == "volume"


def test_only_the_missing_part_of_a_split_model_is_fetched(
    volume: Volume, fake_hub: FakeHub, split: list[str]
) -> None:
    model = volume.store().ensure(SPLIT)
    damaged, gone = (model.path.with_name(name) for name in split[1:3])
    damaged.write_bytes(damaged.read_bytes()[:-1])
    gone.unlink()
    fake_hub.requests.clear()
    assert volume.store().ensure(SPLIT).fetched
    assert [Path(seen.path).name for seen in fake_hub.downloads()] == split[1:3]
    assert volume.store().ensure(SPLIT).header == model.header


def test_one_hash_cannot_be_that_of_a_split_model(volume: Volume, split: list[str]) -> None:
    with pytest.raises(ConfigError, match="MODEL_SHA256 is of one file"):
        volume.store().ensure(SPLIT, sha256="ab" * 32)


def test_a_split_model_in_a_cache_is_used_only_with_all_parts(
    volume: Volume, split: list[str], tmp_path: Path
) -> None:
    snapshot = tmp_path / "cache" / "models--org--split" / "snapshots" / COMMIT
    shutil.copytree(tmp_path / "split", snapshot)
    store = volume.store(caches=[tmp_path / "cache"])
    assert store.ensure(SPLIT).path == snapshot / split[0]
    (snapshot / split[1]).unlink()
    assert store.ensure(SPLIT).path == volume.root / "models" / "org/split" / COMMIT / split[0]


# A source that nobody here knows.


class _MemoryFile(Reference):
    """A file of a source that is a dictionary."""

    __slots__ = ()

    source = "memory"
    folder = "+memory/sha256"

    def __str__(self) -> str:
        return "memory://m.gguf"


class _Memory:
    """A source whose files are at hand, and what it was asked."""

    title = "the memory"

    def __init__(self, content: bytes) -> None:
        self.asked: list[str] = []
        self._content = content

    def close(self) -> None:
        self.asked.append("close")

    def place(self, reference: _MemoryFile, revision: str, sha256: str | None) -> FixedPlace | None:
        return None

    def cacheable(self, reference: _MemoryFile) -> None:
        return None

    def resolve(
        self,
        reference: _MemoryFile,
        revision: str,
        *,
        sha256: str | None = None,
        brief: bool = False,
    ) -> tuple[RemoteFile]:
        self.asked.append("brief" if brief else "resolve")
        sha256 = sha256_of(self._content)
        size = len(self._content)
        return (RemoteFile(reference.folder, "m.gguf", sha256, size, sha256, str(reference)),)

    def open_range(
        self, remote: RemoteFile, offset: int, end: int | None = None
    ) -> Iterator[bytes]:
        self.asked.append(f"from {offset}")
        yield self._content[offset:end]

    def transfer(self, remote: RemoteFile, connections: int) -> Ranges:
        self.asked.append(f"by {connections}")
        return HeldRanges(self._content)


def test_a_source_needs_nothing_of_the_store_but_its_name(
    tmp_path: Path, model_bytes: bytes
) -> None:
    memory, reference = _Memory(model_bytes), _MemoryFile()
    store = Store(tmp_path, {"memory": memory}, lambda progress: None)
    assert store.inspect(reference).where == "memory"
    memory.asked.clear()
    found = store.ensure(reference)
    assert found.path == tmp_path / "models/+memory/sha256" / sha256_of(model_bytes) / "m.gguf"
    assert (found.source, found.fetched) == ("memory://m.gguf", True)
    assert not store.ensure(reference).fetched
    assert store.inspect(reference).where == "volume"
    assert memory.asked == ["resolve", "by 1", "brief"]
    store.close()
    with pytest.raises(ModelCorrupt, match=r"sha256/m\.gguf on the memory has the sha256"):
        store.ensure(reference, sha256="0" * 64)
