from __future__ import annotations

import io
import os
import shutil
import sys
import time
from pathlib import Path

import pytest

from tests.console.conftest import Call, in_use
from tests.fake_hub import COMMIT, FakeHub
from tests.published import publish_again
from tests.tiny_repository import NAME, REPO

DAY = 86400


class Person(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def three(call: Call, fake_hub: FakeHub, volume: Path, model_bytes: bytes) -> list[Path]:
    """Models last used ten, five and no days ago."""
    paths = []
    for number, days in enumerate((10, 5, 0)):
        repo = f"org/M{number}-GGUF"
        fake_hub.add(repo, NAME, model_bytes)
        assert call("pull", repo).code == 0
        paths.append(volume / "gguf-worker" / "models" / repo / COMMIT / NAME)
        for path in paths[-1].parent.iterdir():
            os.utime(path, (0, time.time() - days * DAY))
    return paths


def test_a_model_is_removed(call: Call, stored: Path, model_bytes: bytes) -> None:
    said = call("rm", f"{REPO}:F16", "--yes", "--json")
    assert said.code == 0
    assert not stored.exists()
    assert said.facts["freed_bytes"] == len(model_bytes)
    assert [each["model"] for each in said.facts["removed"]] == [f"{REPO}/{NAME}"]
    assert call("list", "--json").facts["models"] == []


def test_a_person_is_asked_first(call: Call, stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Person("n\n"))
    said = call("rm", REPO)
    assert said.code == 1
    assert f"{REPO}/{NAME}@{COMMIT[:12]}" in said.err
    assert "Remove these," in said.err
    assert stored.exists()
    monkeypatch.setattr(sys, "stdin", Person("y\n"))
    assert call("rm", REPO).code == 0
    assert not stored.exists()


def test_where_nobody_can_be_asked_nothing_is_removed(
    call: Call, stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    said = call("rm", REPO)
    assert said.code == 2
    assert "--yes" in said.err
    assert stored.exists()


def test_a_dry_run_removes_nothing_and_asks_nothing(call: Call, stored: Path) -> None:
    said = call("rm", REPO, "--dry-run", "--json")
    assert said.code == 0
    assert said.facts["dry_run"] is True
    assert len(said.facts["removed"]) == 1
    assert stored.exists()
    assert "Would free" in call("rm", REPO, "--dry-run").out


def test_a_model_in_use_stays_and_ends_with_1(call: Call, stored: Path) -> None:
    with in_use(stored):
        said = call("rm", REPO, "--yes")
        assert said.code == 1
        assert "in use" in said.err
        facts = call("rm", REPO, "--yes", "--json").facts
    assert stored.exists()
    assert facts["removed"] == []
    assert facts["kept"][0]["error"]["code"] == "model_in_use"


def test_a_name_that_is_not_there_removes_nothing_of_the_others(call: Call, stored: Path) -> None:
    said = call("rm", REPO, "org/none", "--yes", "--json")
    assert (said.code, said.facts["error"]["code"]) == (1, "model_unavailable")
    assert stored.exists()


def test_prune_takes_what_is_no_model_and_leaves_the_models(call: Call, stored: Path) -> None:
    part = stored.with_name("other.gguf.part")
    part.write_bytes(bytes(5000))
    bad = stored.with_name(f"{NAME}.bad")
    bad.write_bytes(bytes(100))
    assert call("prune", "--dry-run", "--json").facts["freed_bytes"] == 5100
    assert part.exists()
    said = call("prune", "--yes", "--json")
    assert said.code == 0
    assert said.facts["freed_bytes"] == 5100
    assert (part.exists(), bad.exists(), stored.exists()) == (False, False, True)


def test_prune_takes_rights_that_were_taken_over(call: Call, stored: Path) -> None:
    lock = stored.with_name(f"{NAME}.lock.1")
    assert lock.exists()
    lock.with_name(f"{NAME}.lock.2").write_text("{}")
    said = call("prune", "--yes", "--json")
    assert [each["kind"] for each in said.facts["removed"]] == ["superseded"]
    assert (said.code, lock.exists()) == (0, False)
    assert call("pull", f"{REPO}:F16").code == 0


def test_prune_takes_a_model_that_was_cut(call: Call, stored: Path) -> None:
    os.truncate(stored, 100)
    assert call("prune", "--yes").code == 0
    assert call("list", "--json").facts["models"] == []


def test_prune_with_nothing_to_do_asks_nothing(call: Call, stored: Path) -> None:
    said = call("prune")
    assert (said.code, said.out) == (0, "Freed 0 B\n")


def test_prune_takes_what_was_not_used_for_so_many_days(call: Call, three: list[Path]) -> None:
    assert call("prune", "--older-than", "7", "--yes").code == 0
    assert [path.exists() for path in three] == [False, True, True]


def test_prune_keeps_so_much_and_the_least_recently_used_go(
    call: Call, three: list[Path], model_bytes: bytes
) -> None:
    keep = 1.5 * len(model_bytes) / 1e9
    said = call("prune", "--keep-gb", f"{keep:.9f}", "--yes", "--json")
    assert [each["repo"] for each in said.facts["removed"]] == ["org/M0-GGUF", "org/M1-GGUF"]
    assert [path.exists() for path in three] == [False, False, True]


def test_prune_counts_a_file_of_two_commits_once(
    call: Call, three: list[Path], model_bytes: bytes
) -> None:
    newer = publish_again(three[0], "2e" * 20)
    keep = 3.5 * len(model_bytes) / 1e9
    assert call("prune", "--keep-gb", f"{keep:.9f}", "--yes", "--json").facts["removed"] == []
    said = call("rm", "org/M0-GGUF", "--dry-run", "--json")
    assert (len(said.facts["removed"]), said.facts["freed_bytes"]) == (2, len(model_bytes))
    with in_use(newer):
        assert call("rm", "org/M0-GGUF", "--yes", "--json").facts["freed_bytes"] == 0
    assert newer.exists()


def test_prune_never_takes_what_is_in_use(call: Call, three: list[Path]) -> None:
    with in_use(three[0]):
        for path in three[0].parent.iterdir():
            os.utime(path, (0, time.time() - 10 * DAY))
        assert call("prune", "--keep-gb", "0", "--yes").code == 0
    assert [path.exists() for path in three] == [True, False, False]


def test_a_model_of_the_image_is_never_removed(call: Call, baked: Path) -> None:
    said = call("rm", f"{REPO}:F16", "--yes")
    assert said.code == 1
    assert "is in the image, where it stays, and not on the volume" in said.err
    assert call("prune", "--older-than", "0", "--yes").code == 0
    assert baked.exists()


def test_of_a_model_in_the_image_and_on_the_volume_the_latter_is_removed(
    call: Call, baked: Path, volume: Path
) -> None:
    root = baked.parents[4]
    shutil.copytree(root, volume / root.name)
    assert call("rm", f"{REPO}:F16", "--yes").code == 0
    assert baked.exists()
    assert not list(volume.rglob("*.gguf"))
