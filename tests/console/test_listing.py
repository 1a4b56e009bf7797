from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.console.conftest import Call, in_use
from tests.fake_hub import COMMIT
from tests.tiny_repository import NAME, REPO


def test_a_program_learns_what_is_there(call: Call, stored: Path, model_bytes: bytes) -> None:
    facts = call("list", "--json").facts
    (model,) = facts["models"]
    assert (model["model"], model["commit"]) == (f"{REPO}/{NAME}", COMMIT)
    assert (model["quantization"], model["size"]) == ("F16", len(model_bytes))
    assert (model["state"], model["in_use"]) == ("ready", False)
    assert [each["path"] for each in model["files"]] == [str(stored)]
    assert facts["leftovers"] == []
    assert facts["used_bytes"] >= len(model_bytes)
    assert 0 < facts["free_bytes"] <= facts["total_bytes"]


def test_people_get_a_table_and_the_room_that_is_left(call: Call, stored: Path) -> None:
    lines = call("list").out.splitlines()
    assert lines[0].split()[:3] == ["MODEL", "COMMIT", "QUANT"]
    assert lines[1].startswith(f"{REPO}/{NAME}   {COMMIT[:12]}   F16")
    assert lines[1].endswith("just now    ready")
    assert lines[-1].startswith("1 model, ")
    assert lines[-1].endswith(" free")


def test_what_a_worker_uses_is_in_use(call: Call, stored: Path) -> None:
    with in_use(stored):
        assert call("list", "--json").facts["models"][0]["in_use"] is True
        assert "now         in use" in call("list").out


def test_when_a_model_was_last_used_is_reported(call: Call, stored: Path) -> None:
    for path in stored.parent.iterdir():
        os.utime(path, (0, time.time() - 3 * 86400 - 60))
    assert "3 days ago" in call("list").out


def test_what_is_no_model_is_listed_apart(call: Call, stored: Path) -> None:
    stored.with_name("other.gguf.part").write_bytes(bytes(5000))
    stored.with_name(f"{NAME}.bad").write_bytes(bytes(100))
    said = call("list")
    assert "NO MODEL" in said.out
    kinds = {each["kind"]: each["size"] for each in call("list", "--json").facts["leftovers"]}
    assert kinds == {"partial": 5000, "damaged": 100}


def test_a_model_that_was_cut_is_damaged(call: Call, stored: Path) -> None:
    os.truncate(stored, 100)
    assert call("list", "--json").facts["models"][0]["state"] == "damaged"


def test_an_empty_volume_and_one_without_a_store_are_shown(call: Call, volume: Path) -> None:
    said = call("list")
    assert said.code == 0
    assert "0 models" in said.out
    assert f"{volume}/gguf-worker (not there yet)" in said.out
    assert call("list", "--json").facts["models"] == []


def test_models_of_the_image_are_listed_apart(call: Call, baked: Path) -> None:
    facts = call("list", "--json").facts
    assert facts["models"] == []
    assert [each["path"] for each in facts["image_models"]] == [str(baked)]
    assert facts["image_path"] == str(baked.parents[4])
    out = call("list").out
    assert "ready, in the image" in out
    assert f"in {baked.parents[4]}, of the image" in out


def test_without_models_in_the_image_there_is_no_word_of_it(call: Call, stored: Path) -> None:
    assert "image" not in call("list").out
    assert call("list", "--json").facts["image_models"] == []


def test_a_volume_that_is_the_images_own_place_is_listed_once(
    call: Call, baked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VOLUME_PATH", str(baked.parents[5]))
    facts = call("list", "--json").facts
    assert len(facts["models"]) == 1
    assert facts["image_models"] == []
