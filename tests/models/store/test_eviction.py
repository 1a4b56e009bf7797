from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from gguf_worker.errors import DiskFull, ModelInUse
from gguf_worker.models.store import Inventory, PublishedModel
from gguf_worker.models.store.entry import StoreEntry
from gguf_worker.models.store.eviction import Eviction
from gguf_worker.models.store.usage_marks import UsageMark
from tests.fake_hub import COMMIT
from tests.published import publish, publish_again

NEWER = "2e" * 20
SPARE = 16 << 20
SMALL = 10_000
"""More than all the small files of a store here."""
SIZE = 1_000_000


def _entry(root: Path, repo: str, file: str = "m.gguf") -> StoreEntry:
    return StoreEntry(root / "models" / repo, COMMIT, file)


def _wanted(root: Path) -> StoreEntry:
    return _entry(root, "org/new", "new.gguf")


def _repos(root: Path) -> list[str]:
    return [model.repo for model in Inventory(root).models()]


def _three(root: Path) -> None:
    """Models of a million bytes, the second used last, the third first."""
    publish(root, "org/a", "m.gguf", size=SIZE, used=2000)
    publish(root, "org/b", "m.gguf", size=SIZE, used=3000)
    publish(root, "org/c", "m.gguf", size=SIZE, used=1000)


def _pretend_free(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free))


def test_where_there_is_room_nothing_is_removed(tmp_path: Path) -> None:
    _three(tmp_path)
    Eviction(tmp_path, 4 * SIZE + SMALL).make_room([_wanted(tmp_path)], SIZE, "new")
    Eviction(tmp_path, None).make_room([_wanted(tmp_path)], SIZE, "new")
    assert len(_repos(tmp_path)) == 3


@pytest.mark.parametrize(
    ("limit", "left"),
    [(3, ["org/a", "org/b"]), (2, ["org/b"]), (1, [])],
)
def test_the_least_recently_used_are_removed_until_the_new_one_fits(
    tmp_path: Path, limit: int, left: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    _three(tmp_path)
    caplog.set_level("INFO")
    Eviction(tmp_path, limit * SIZE + SMALL).make_room([_wanted(tmp_path)], SIZE, "new")
    assert _repos(tmp_path) == left
    assert caplog.text.count("removed org/c/m.gguf@1f1f1f1f1f1f: 1,000,000 bytes") == 1


def test_a_use_counts_more_than_when_a_model_was_fetched(tmp_path: Path) -> None:
    _three(tmp_path)
    use = UsageMark(_entry(tmp_path, "org/c").path)
    use.begin()
    use.close()
    Eviction(tmp_path, 3 * SIZE + SMALL).make_room([_wanted(tmp_path)], SIZE, "new")
    assert _repos(tmp_path) == ["org/b", "org/c"]


def test_a_model_in_use_is_never_removed_and_nothing_in_vain(tmp_path: Path) -> None:
    _three(tmp_path)
    use = UsageMark(_entry(tmp_path, "org/c").path)
    use.begin()
    eviction = Eviction(tmp_path, 2 * SIZE + SMALL)
    eviction.make_room([_wanted(tmp_path)], SIZE, "new")
    assert _repos(tmp_path) == ["org/c"]
    publish(tmp_path, "org/a", "m.gguf", size=SIZE)
    with pytest.raises(DiskFull, match="VOLUME_MAX_GB allows 2,010,000") as refused:
        eviction.make_room([_wanted(tmp_path)], 2 * SIZE, "new")
    assert "No worker uses org/a/m.gguf@1f1f1f1f1f1f (1,000,000 bytes)" in str(refused.value)
    assert "org/c" not in str(refused.value)
    assert _repos(tmp_path) == ["org/a", "org/c"]
    use.close()


def test_a_commit_whose_bytes_another_in_use_has_is_not_removed_in_vain(tmp_path: Path) -> None:
    old = publish(tmp_path, "org/a", "m.gguf", size=SIZE, used=1)
    new = publish_again(old, NEWER)
    publish(tmp_path, "org/b", "m.gguf", size=SIZE, used=2)
    use = UsageMark(new)
    use.begin()
    eviction = Eviction(tmp_path, 2 * SIZE + SMALL)
    eviction.make_room([_wanted(tmp_path)], SIZE, "new")
    assert _repos(tmp_path) == ["org/a", "org/a"]
    use.close()
    eviction.make_room([_wanted(tmp_path)], 2 * SIZE, "new")
    assert _repos(tmp_path) == []


def test_the_model_that_is_asked_for_never_goes(tmp_path: Path) -> None:
    names = [f"big-{at:05d}-of-00002.gguf" for at in (1, 2)]
    publish(tmp_path, "org/big", names[0], size=SIZE, used=1)
    with pytest.raises(DiskFull, match="nothing else that no worker uses"):
        Eviction(tmp_path, SIZE + SMALL).make_room(
            [_entry(tmp_path, "org/big", names[1])], SIZE, "big"
        )
    assert _repos(tmp_path) == ["org/big"]


def test_another_file_of_the_same_commit_may_go(tmp_path: Path) -> None:
    publish(tmp_path, "org/a", "q4.gguf", size=SIZE)
    Eviction(tmp_path, SIZE + SMALL).make_room([_entry(tmp_path, "org/a", "q8.gguf")], SIZE, "q8")
    assert _repos(tmp_path) == []


def test_leftovers_go_before_models_but_not_the_download_that_goes_on(tmp_path: Path) -> None:
    publish(tmp_path, "org/a", "m.gguf", size=SIZE, used=1)
    left = _entry(tmp_path, "org/a", "old.gguf").sidecar(".part")
    left.write_bytes(b"x" * SIZE)
    own = _wanted(tmp_path).sidecar(".part")
    own.parent.mkdir(parents=True)
    own.write_bytes(b"x" * SIZE)
    Eviction(tmp_path, 3 * SIZE + SMALL).make_room([_wanted(tmp_path)], SIZE, "new")
    assert (left.exists(), own.exists()) == (False, True)
    assert _repos(tmp_path) == ["org/a"]


def test_a_damaged_copy_of_the_model_itself_goes_even_without_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = _wanted(tmp_path).sidecar(".bad")
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"x")
    _pretend_free(monkeypatch, 1000)
    with pytest.raises(DiskFull):
        Eviction(tmp_path, None).make_room([_wanted(tmp_path)], SIZE, "new")
    assert not damaged.exists()


def test_what_others_are_fetching_counts_in_full(tmp_path: Path) -> None:
    publish(tmp_path, "org/a", "m.gguf", size=SIZE)
    other = _entry(tmp_path, "org/b")
    other.path.parent.mkdir(parents=True)
    other.sidecar(".part").write_bytes(b"x")
    other.sidecar(".part.json").write_text(json.dumps({"size": SIZE}))
    use = UsageMark(other.path)
    use.begin()
    eviction = Eviction(tmp_path, 2 * SIZE + SMALL)
    eviction.make_room([_wanted(tmp_path)], SIZE, "new")
    assert _repos(tmp_path) == []
    use.close()


def test_without_a_limit_a_short_disk_names_what_could_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _three(tmp_path)
    _pretend_free(monkeypatch, 1000)
    with pytest.raises(DiskFull) as refused:
        Eviction(tmp_path, None).make_room([_wanted(tmp_path)], SIZE, "org/new/new.gguf")
    text = str(refused.value)
    assert f"org/new/new.gguf needs {SIZE + SPARE:,} bytes more" in text
    assert "1,000 are free" in text
    names = [f"org/{each}/m.gguf@1f1f1f1f1f1f (1,000,000 bytes)" for each in "cab"]
    assert f"No worker uses {', '.join(names)}: 3,000,000 bytes." in text
    assert "With VOLUME_MAX_GB set, it makes way by itself." in text
    assert len(_repos(tmp_path)) == 3


def test_with_a_limit_models_are_removed_for_a_disk_that_is_shorter_than_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _three(tmp_path)
    _pretend_free(monkeypatch, SPARE + SIZE // 2)
    Eviction(tmp_path, 1000 * SIZE).make_room([_wanted(tmp_path)], SIZE, "new")
    assert _repos(tmp_path) == ["org/a", "org/b"]


def test_a_disk_that_refuses_a_byte_has_no_room_whatever_it_reports(tmp_path: Path) -> None:
    publish(tmp_path, "org/a", "m.gguf", size=SIZE + SPARE)
    with pytest.raises(DiskFull, match=r"yet it takes no more \(Disk quota exceeded\)"):
        Eviction(tmp_path, None).make_room(
            [_wanted(tmp_path)], SIZE, "new", refused="Disk quota exceeded"
        )
    Eviction(tmp_path, 1000 * SIZE).make_room([_wanted(tmp_path)], SIZE, "new", refused="Quota")
    assert _repos(tmp_path) == []


def test_a_model_that_comes_into_use_meanwhile_is_passed_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _three(tmp_path)
    real = Inventory.remove

    def remove(self: Inventory, model: PublishedModel) -> int:
        if model.repo == "org/c":
            raise ModelInUse("somebody came")
        return real(self, model)

    monkeypatch.setattr(Inventory, "remove", remove)
    Eviction(tmp_path, 3 * SIZE + SMALL).make_room([_wanted(tmp_path)], SIZE, "new")
    assert _repos(tmp_path) == ["org/b", "org/c"]
    assert "could not make room with org/c/m.gguf@1f1f1f1f1f1f: somebody came" in caplog.text
    with pytest.raises(DiskFull):
        Eviction(tmp_path, SIZE + SMALL).make_room([_wanted(tmp_path)], SIZE, "new")


def test_bytes_that_another_worker_removes_meanwhile_count_as_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _three(tmp_path)
    real = Inventory.remove

    def remove(self: Inventory, model: PublishedModel) -> int:
        real(self, model)  # by the other
        return real(self, model)

    monkeypatch.setattr(Inventory, "remove", remove)
    Eviction(tmp_path, SIZE + SMALL).make_room([_wanted(tmp_path)], SIZE, "new")
    assert _repos(tmp_path) == []
