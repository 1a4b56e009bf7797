from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from gguf_worker.errors import ModelInUse
from gguf_worker.models.store import Inventory, inventory
from gguf_worker.models.store.entry import StoreEntry
from gguf_worker.models.store.lease import Lease
from gguf_worker.models.store.usage_marks import UsageMark, in_use
from tests.fake_hub import COMMIT
from tests.fakes import FakeClock
from tests.published import publish, publish_again

NEWER = "2e" * 20
PARTS = tuple(f"big-{at:05d}-of-00003.gguf" for at in (1, 2, 3))


def test_a_store_that_does_not_exist_holds_nothing(tmp_path: Path) -> None:
    inventory = Inventory(tmp_path / "none")
    assert (inventory.models(), inventory.leftovers(), inventory.total_bytes()) == ((), (), 0)


def test_models_are_listed_with_their_files_sizes_and_hashes(tmp_path: Path) -> None:
    path = publish(tmp_path, "org/b", "F16/deep.gguf")
    os.utime(path, (1000, 1000))
    publish(tmp_path, "org/a", "a.gguf", commit=NEWER, size=7)
    publish(tmp_path, "org/a", "a.gguf", size=8)
    (tmp_path / "models/org/a/resolved.json").write_text("{}")
    old, new, deep = Inventory(tmp_path).models()
    assert [(each.commit, each.size) for each in (old, new)] == [(COMMIT, 8), (NEWER, 7)]
    assert (deep.repo, deep.file, deep.missing) == ("org/b", "F16/deep.gguf", ())
    assert [(each.file, each.path, each.sha256) for each in deep.files] == [
        ("F16/deep.gguf", path, "ab" * 32)
    ]
    assert (deep.used_at, deep.in_use) == (1000, False)
    assert str(deep) == "org/b/F16/deep.gguf@1f1f1f1f1f1f"


def test_the_parts_of_a_split_model_are_one_model_and_missing_ones_are_named(
    tmp_path: Path,
) -> None:
    for name in PARTS[1:]:
        publish(tmp_path, "org/big", name)
    (model,) = Inventory(tmp_path).models()
    assert (model.file, model.missing, model.size) == (PARTS[0], PARTS[:1], 200)
    publish(tmp_path, "org/big", PARTS[0])
    (model,) = Inventory(tmp_path).models()
    assert (model.missing, model.size) == ((), 300)
    assert [each.file for each in model.files] == list(PARTS)


def test_a_file_of_two_commits_counts_once_and_is_free_when_both_are_removed(
    tmp_path: Path,
) -> None:
    old = publish(tmp_path, "org/a", "a.gguf", size=5000)
    new = publish_again(old, NEWER)
    inventory = Inventory(tmp_path)
    first, second = inventory.models()
    assert (first.size, second.size) == (5000, 5000)
    assert 5000 < inventory.total_bytes() < 6000
    assert inventory.remove(first) == 0
    assert new.read_bytes() == b"x" * 5000
    assert [each.commit for each in inventory.models()] == [NEWER]
    assert inventory.remove(second) == 5000


def test_a_file_that_is_no_model_is_listed_by_its_kind(tmp_path: Path) -> None:
    path = publish(tmp_path, "org/a", "a.gguf")
    for ending in (".part", ".bad", ".gone"):
        path.with_name(path.name + ending).write_bytes(b"123")
    path.with_name("a.gguf.part.json").write_text("{}")
    path.with_name("alone.gguf").write_bytes(b"1234")
    path.with_name("torn.gguf").write_bytes(b"12345")
    path.with_name("torn.gguf.json").write_text("{")
    inventory = Inventory(tmp_path)
    assert [(each.path.name, each.size, each.kind) for each in inventory.leftovers()] == [
        ("a.gguf.bad", 3, "damaged"),
        ("a.gguf.gone", 3, "removed"),
        ("a.gguf.part", 3, "partial"),
        ("alone.gguf", 4, "unlisted"),
        ("torn.gguf", 5, "unlisted"),
    ]
    assert [each.file for each in inventory.models()] == ["a.gguf"]
    assert inventory.total_bytes() == sum(
        each.stat().st_size for each in tmp_path.rglob("*") if each.is_file()
    )


def test_a_removed_model_is_gone_and_others_stay(tmp_path: Path) -> None:
    publish(tmp_path, "org/a", "a.gguf")
    for name in PARTS:
        publish(tmp_path, "org/a", name)
    inventory = Inventory(tmp_path)
    first, big = inventory.models()
    assert inventory.remove(big) == 300
    assert inventory.models() == (first,)
    assert inventory.leftovers() == ()
    assert inventory.remove(big) == 0  # another was faster


def test_a_model_in_use_is_not_removed(tmp_path: Path) -> None:
    use = UsageMark(publish(tmp_path, "org/a", "a.gguf"))
    use.begin()
    (model,) = Inventory(tmp_path).models()
    assert model.in_use
    with pytest.raises(ModelInUse, match=r"org/a/a.gguf@1f1f.* is in use"):
        Inventory(tmp_path).remove(model)
    use.close()
    assert Inventory(tmp_path).remove(model) == 100


def test_a_model_that_comes_into_use_while_it_is_removed_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = publish(tmp_path, "org/a", "a.gguf")
    use = UsageMark(path)
    asked: list[Path] = []

    def late_in_use(first: Path) -> bool:
        """Free at the first look; then somebody comes."""
        asked.append(first)
        if len(asked) == 1:
            return False
        assert not path.exists()
        use.begin()
        return in_use(first)

    store = Inventory(tmp_path)
    (model,) = store.models()
    monkeypatch.setattr(inventory, "in_use", late_in_use)
    with pytest.raises(ModelInUse):
        store.remove(model)
    use.close()
    assert path.read_bytes() == b"x" * 100
    assert StoreEntry(path.parents[1], COMMIT, "a.gguf").published("off", look_inside=False)


@pytest.mark.parametrize("step", ["replace", "unlink", "unlink again"])
def test_a_crash_while_a_model_is_removed_leaves_a_whole_one_or_a_leftover(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = publish(tmp_path, "org/a", "a.gguf")
    store = Inventory(tmp_path)
    (model,) = store.models()
    name, *again = step.split()
    real, left = getattr(Path, name), len(again)

    def crash(self: Path, *arguments: object, **options: object) -> object:
        nonlocal left
        if ".lock." in self.name or ".clock." in self.name:
            return real(self, *arguments, **options)
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        return real(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, name, crash)
        with pytest.raises(KeyboardInterrupt):
            store.remove(model)
    whole = path.exists() and path.read_bytes() == b"x" * 100
    assert [each.file for each in store.models()] == (["a.gguf"] if whole else [])
    assert [each.kind for each in store.leftovers()] == (["removed"] if step == "unlink" else [])
    for leftover in store.leftovers():
        assert store.discard(leftover) == 100
    assert store.leftovers() == ()


@pytest.mark.usefixtures("quick_leases")
def test_a_removal_waits_for_the_worker_that_writes_the_file(tmp_path: Path) -> None:
    path = publish(tmp_path, "org/a", "a.gguf")
    store = Inventory(tmp_path)
    (model,) = store.models()
    lease = Lease(path.with_name("a.gguf.lock"))
    lease.acquire()
    removal = threading.Thread(target=store.remove, args=(model,))
    removal.start()
    removal.join(0.3)
    assert path.exists()
    lease.release()
    removal.join(20)
    assert not path.exists()


def test_a_download_that_was_begun_is_discarded_with_its_note_unless_it_goes_on(
    tmp_path: Path,
) -> None:
    path = publish(tmp_path, "org/a", "F16/a.gguf")
    path.unlink()
    part = path.with_name("a.gguf.part")
    part.write_bytes(b"123")
    part.with_name("a.gguf.part.json").write_text(json.dumps({}))
    store = Inventory(tmp_path)
    use = UsageMark(path)
    use.begin()
    (leftover,) = store.leftovers()
    assert leftover.in_use
    with pytest.raises(ModelInUse):
        store.discard(leftover)
    use.close()
    assert store.discard(leftover) == 3
    assert not list(path.parent.glob("*.part*"))


def test_locks_of_leases_that_were_taken_over_are_leftovers_and_the_latest_is_not(
    tmp_path: Path,
) -> None:
    path = publish(tmp_path, "org/a", "a.gguf")
    for number in (2, 9, 10):
        path.with_name(f"a.gguf.lock.{number}").write_text("{}")
    path.with_name("b.gguf.lock.1").write_text("{}")
    path.with_name("b.gguf.lock.x").write_text("{}")
    clock = FakeClock()
    held = Lease(path.with_name("a.gguf.lock"), now=clock, sleep=clock.advance)
    held.acquire()
    for number in (2, 9):
        path.with_name(f"a.gguf.lock.{number}").write_text("{}")
    inventory = Inventory(tmp_path)
    found = inventory.leftovers()
    assert [(each.path.name, each.kind, each.in_use) for each in found] == [
        ("a.gguf.lock.2", "superseded", False),
        ("a.gguf.lock.9", "superseded", False),
    ]
    assert [inventory.discard(each) for each in found] == [2, 2]
    assert inventory.leftovers() == ()
    held.check()
    held.release()
    assert sorted(each.name for each in path.parent.glob("*.lock.*")) == [
        "a.gguf.lock.11",
        "b.gguf.lock.1",
        "b.gguf.lock.x",
    ]


def test_links_out_of_the_store_are_not_followed(tmp_path: Path) -> None:
    publish(tmp_path / "elsewhere", "org/a", "a.gguf")
    (tmp_path / "store" / "models").mkdir(parents=True)
    (tmp_path / "store" / "models" / "org").symlink_to(tmp_path / "elsewhere" / "models" / "org")
    assert Inventory(tmp_path / "store").models() == ()
