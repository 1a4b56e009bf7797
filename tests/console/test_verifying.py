from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.console.conftest import Call
from tests.fake_hub import COMMIT, FakeHub
from tests.tiny_gguf import write_tiny
from tests.tiny_repository import NAME, REPO


def flip(path: Path) -> None:
    """Change the last byte, and nothing that a glance would show."""
    stat = path.stat()
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_a_sound_model_ends_with_0(call: Call, stored: Path) -> None:
    said = call("verify", f"{REPO}:F16")
    assert said.code == 0
    assert "reading tiny-F16.gguf: 100 %" in said.err
    assert f"ok       {REPO}/{NAME}" in said.err
    assert said.out == "1 verified, none damaged\n"


def test_a_flipped_byte_ends_with_1_and_the_files_name(call: Call, stored: Path) -> None:
    flip(stored)
    said = call("verify", "--all")
    assert said.code == 1
    assert f"DAMAGED  {REPO}/{NAME}" in said.err
    assert str(stored) in said.err
    facts = call("verify", "--all", "--json").facts
    assert facts["sound"] is False
    (model,) = facts["models"]
    assert (model["model"], model["sound"]) == (f"{REPO}/{NAME}", False)
    assert "sha256" in model["files"][0]["problem"]


def test_what_was_found_damaged_is_fetched_again_as_the_help_says(
    call: Call, stored: Path, monkeypatch: pytest.MonkeyPatch, model_bytes: bytes
) -> None:
    flip(stored)
    monkeypatch.setenv("VERIFY", "full")
    assert call("pull", f"{REPO}:F16", "--json").facts["fetched"] is True
    assert stored.read_bytes() == model_bytes
    assert call("verify", "--all").code == 0


def test_of_a_split_model_the_damaged_part_is_named(
    call: Call, fake_hub: FakeHub, volume: Path, tmp_path: Path
) -> None:
    write_tiny(tmp_path / "split-F16.gguf", tensors_per_file=8)
    parts = sorted(tmp_path.glob("*.gguf"))
    for part in parts:
        fake_hub.add("org/Split-GGUF", part.name, part.read_bytes())
    call("pull", "org/Split-GGUF")
    folder = volume / "gguf-worker" / "models" / "org/Split-GGUF" / COMMIT
    flip(folder / parts[1].name)
    (model,) = call("verify", "org/Split-GGUF", "--json").facts["models"]
    assert [each["problem"] is None for each in model["files"]] == [
        part is not parts[1] for part in parts
    ]
    (folder / parts[1].name).unlink()
    said = call("verify", "org/Split-GGUF")
    assert said.code == 1
    assert "not there as a whole" in said.err


def test_without_a_name_the_settings_model_is_meant(
    call: Call, stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call("verify").code == 2
    monkeypatch.setenv("MODEL", f"{REPO}:F16")
    assert call("verify").code == 0
    monkeypatch.setenv("MODEL", f"{REPO}:Q8_0")
    said = call("verify")
    assert said.code == 1
    assert "not on the volume" in said.err


def test_an_empty_volume_is_sound(call: Call) -> None:
    assert call("verify", "--all", "--json").facts == {"sound": True, "models": []}


def test_a_name_of_the_catalog_is_pulled_verified_and_removed(
    call: Call, volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "models.yaml"
    file.write_text(f"models: {{small: {{model: '{REPO}:F16'}}}}")
    monkeypatch.setenv("MODELS_FILE", str(file))
    assert call("pull", "small").out.endswith(f"{NAME}\n")
    assert call("verify", "small").out == "1 verified, none damaged\n"
    assert call("list").code == 0
    assert call("rm", "small", "--yes").code == 0


@pytest.mark.parametrize("which", ["--all", f"{REPO}:F16", None])
def test_a_model_of_the_image_is_verified_too(call: Call, baked: Path, which: str | None) -> None:
    named = [] if which is None else [which]
    assert call("verify", *named, "--json").facts["models"][0]["sound"]
    with baked.open("r+b") as file:
        file.write(b"other")
    assert call("verify", *named).code == 1
