"""A model that is baked into an image: what is kept of it, and that the same makes the same."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gguf_worker.config import load_settings
from gguf_worker.models.source import parse_reference
from gguf_worker.models.store import entry as entry_module
from gguf_worker.serving import opened_store
from tests.fake_hub import COMMIT, FakeHub
from tests.paths import ROOT
from tests.tiny_gguf import write_tiny
from tests.tiny_repository import NAME, REPO

FILES = {"baked.json"} | {
    f"gguf-worker/models/{REPO}/{name}"
    for name in (f"{COMMIT}/{NAME}", f"{COMMIT}/{NAME}.json", "resolved.json")
}
GIVEN = {"MODEL": f"{REPO}:F16", "MODEL_REVISION": COMMIT}


def bake(folder: Path, hub: FakeHub, **given: str) -> Path:
    """Run the stage of the image's build that bakes a model, and return the folder of models."""
    folder.mkdir()
    models = folder / "models"
    script = (ROOT / "builder/image/bake.sh").read_text()
    script = script.replace("/venv/bin/python", sys.executable)
    script = re.sub(r"(?<=[ =])/run/secrets/", f"{folder}/secrets/", script)
    environ = {"PATH": os.environ["PATH"], "HOME": str(folder), "HF_ENDPOINT": hub.url, **given}
    for command in (["-c", script, "bake.sh", str(folder / "fetched"), str(models)],
                    [str(ROOT / "builder/image/times.sh"), str(models)]):  # fmt: skip
        subprocess.run(["sh", *command], env=environ, check=True, timeout=60, capture_output=True)
    return models


def state(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return all that a layer has of a folder: its files' modes, times and contents."""
    return {
        str(path.relative_to(folder)): (
            path.stat().st_mode,
            path.stat().st_mtime_ns,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in (folder, *folder.rglob("*"))
    }


@pytest.fixture
def hub(fake_hub: FakeHub, tmp_path: Path) -> FakeHub:
    fake_hub.add(REPO, NAME, write_tiny(tmp_path / "tiny.gguf").read_bytes())
    return fake_hub


def test_of_a_baked_model_its_files_and_a_note_are_kept(hub: FakeHub, tmp_path: Path) -> None:
    models = bake(tmp_path / "a", hub, **GIVEN)
    files = {str(path.relative_to(models)) for path in models.rglob("*") if path.is_file()}
    assert files == FILES
    note = json.loads((models / "baked.json").read_text())
    assert {name: value for name, value in note.items() if value} == GIVEN


def test_the_same_model_makes_the_same_layer_on_every_builder(hub: FakeHub, tmp_path: Path) -> None:
    assert state(bake(tmp_path / "a", hub, **GIVEN)) == state(bake(tmp_path / "b", hub, **GIVEN))


def test_any_user_may_read_a_baked_model_and_only_root_write(hub: FakeHub, tmp_path: Path) -> None:
    models = bake(tmp_path / "a", hub, **GIVEN)
    for path in (models, *models.rglob("*")):
        wanted = 0o755 if path.is_dir() else 0o644
        assert path.stat().st_mode & 0o777 == wanted, path


def test_a_baked_model_is_served_without_the_hub_and_unhashed(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = bake(tmp_path / "a", hub, **GIVEN)
    hub.requests.clear()
    monkeypatch.delattr(entry_module, "hash_of")
    environ = {"BAKED_MODELS": str(models), "HF_ENDPOINT": hub.url}
    settings = load_settings({**environ, "VOLUME_PATH": str(tmp_path)})
    with opened_store(settings, {}, lambda progress: None) as store:
        found = store.ensure(parse_reference(settings.model), revision=settings.model_revision)
    assert found.path.is_relative_to(models)
    assert hub.requests == []


def test_without_a_model_nothing_is_baked(hub: FakeHub, tmp_path: Path) -> None:
    models = bake(tmp_path / "a", hub)
    assert list(models.iterdir()) == []
    environ = {"BAKED_MODELS": str(models), "MODEL": "org/other:Q4_0"}
    assert load_settings(environ).model == "org/other:Q4_0"
