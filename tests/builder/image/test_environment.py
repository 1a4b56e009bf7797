"""What the image's own environment means to the worker, with a model baked in and without."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from gguf_worker.config import Settings, load_settings
from tests.dockerfile import dockerfile

BAKED = {"MODEL": "org/baked:Q4_0", "MODEL_REVISION": "v1", "MODEL_SHA256": "a" * 64}


def settings_in(models: Path, build: dict[str, str], **given: str) -> Settings:
    """Return the settings of a container: of the image built with `build`, and what a user sets.

    `models` is the image's /models.
    """
    (variables,) = [words for name, words in dockerfile() if name == "ENV" and "PATH=" in words]
    said = subprocess.run(
        ["sh", "-c", f"export {variables}; env -0"],
        env={"PATH": "/usr/bin:/bin", **build},
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
    ).stdout
    names = {word.partition("=")[0] for word in variables.split()}
    pairs = (entry.split("=", 1) for entry in said.split("\0") if entry)
    environ = {name: value for name, value in pairs if name in names}
    models.mkdir(exist_ok=True)
    (models / "baked.json").write_text(json.dumps(build))
    environ = {name: value.replace("/models", str(models)) for name, value in environ.items()}
    return load_settings({**environ, **given})


def test_an_image_with_a_model_serves_it(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, BAKED)
    assert settings.model == BAKED["MODEL"]
    assert (settings.model_revision, settings.model_sha256) == ("v1", "a" * 64)


def test_an_image_with_a_model_keeps_others_on_the_volume(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, BAKED, MODEL="org/other:Q8_0")
    assert settings.volume_path == Path("/runpod-volume")


def test_the_revision_and_hash_of_the_images_model_are_not_another_models(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, BAKED, MODEL="org/other:Q8_0")
    assert (settings.model, settings.model_revision) == ("org/other:Q8_0", "main")
    assert settings.model_sha256 is None


def test_a_catalog_takes_the_place_of_the_images_model(tmp_path: Path) -> None:
    file = tmp_path / "models.yaml"
    file.write_text("models: {mine: {model: 'org/baked:Q4_0'}, other: {model: 'org/other:Q8_0'}}")
    settings = settings_in(tmp_path, BAKED, MODELS_FILE=str(file))
    assert settings.catalog is not None
    mine, other = (each.settings for each in settings.catalog.entries)
    assert (mine.model_revision, mine.model_sha256) == ("v1", "a" * 64)
    assert (other.model_revision, other.model_sha256) == ("main", None)
    assert mine.volume_path == other.volume_path == Path("/runpod-volume")


def test_an_image_without_a_model_has_no_place_for_any(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, {}, MODEL="org/other:Q8_0")
    assert settings.volume_path == Path("/runpod-volume")
    assert not settings.model_fields_set - {"model"}
