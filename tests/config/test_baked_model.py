from __future__ import annotations

import json
from pathlib import Path

import pytest

from gguf_worker.config import load_settings
from gguf_worker.config.baked_model import read_baked_model
from gguf_worker.errors import ConfigError

MODEL, HASH, OTHER_HASH = "org/baked:Q4_0", "a" * 64, "b" * 64
NOTE = {"MODEL": MODEL, "MODEL_REVISION": "v1", "MODEL_SHA256": HASH}


@pytest.fixture
def image(tmp_path: Path) -> Path:
    (tmp_path / "baked.json").write_text(json.dumps(NOTE))
    return tmp_path


def test_the_images_model_is_served_where_none_is_named(image: Path) -> None:
    settings = load_settings({"BAKED_MODELS": str(image)})
    assert (settings.model, settings.model_revision) == (MODEL, "v1")
    assert settings.model_sha256 == HASH


@pytest.mark.parametrize(
    ("given", "revision", "sha256"),
    [
        ({"MODEL": MODEL}, "v1", HASH),
        ({"MODEL": "org/other:Q4_0"}, "main", None),
        ({"MODEL": "org/other:Q4_0", "MODEL_REVISION": "v2"}, "v2", None),
        ({"MODEL_REVISION": "v2"}, "v2", None),
        ({"MODEL_SHA256": OTHER_HASH}, "v1", OTHER_HASH),
        ({"MODEL_REVISION": "v2", "MODEL_SHA256": OTHER_HASH}, "v2", OTHER_HASH),
    ],
)
def test_its_revision_and_hash_hold_for_it_alone_and_for_that_version(
    image: Path, given: dict[str, str], revision: str, sha256: str | None
) -> None:
    settings = load_settings({"BAKED_MODELS": str(image), **given})
    assert settings.model == given.get("MODEL", MODEL)
    assert (settings.model_revision, settings.model_sha256) == (revision, sha256)


def test_it_is_told_where_the_values_come_from(image: Path) -> None:
    settings = load_settings({"BAKED_MODELS": str(image), "MODEL_SHA256": OTHER_HASH})
    sources = {line.name: line.source for line in settings.describe()}
    assert (sources["MODEL"], sources["MODEL_REVISION"]) == ("BAKED_MODELS", "BAKED_MODELS")
    assert sources["MODEL_SHA256"] == "environment"


def test_each_model_of_a_catalog_that_is_the_images_has_its_revision_and_hash(image: Path) -> None:
    file = image / "models.yaml"
    file.write_text(
        f"models: {{a: {{model: '{MODEL}'}}, b: {{model: '{MODEL}', revision: v2}}, "
        "c: {model: 'org/c:Q4_0'}}"
    )
    catalog = load_settings({"BAKED_MODELS": str(image), "MODELS_FILE": str(file)}).catalog
    assert catalog is not None
    settings = [each.settings for each in catalog.entries]
    of_each = [(each.model_revision, each.model_sha256) for each in settings]
    assert of_each == [("v1", HASH), ("v2", None), ("main", None)]
    sources = {line.name: line.source for line in catalog.default.settings.describe()}
    assert (sources["MODEL"], sources["MODEL_REVISION"]) == ("MODELS_FILE", "BAKED_MODELS")


@pytest.mark.parametrize("note", [None, "", "[]", "{", '{"MODEL": 3}', '{"MODEL": ""}', "\xff"])
def test_without_a_note_that_names_a_model_one_has_to_be_named(
    tmp_path: Path, note: str | None
) -> None:
    if note is not None:
        (tmp_path / "baked.json").write_text(note, encoding="latin-1")
    assert read_baked_model(str(tmp_path)) is None
    with pytest.raises(ConfigError, match="MODEL is not set"):
        load_settings({"BAKED_MODELS": str(tmp_path)})
    assert load_settings({"BAKED_MODELS": str(tmp_path), "MODEL": "a/b"}).model == "a/b"


def test_a_wrong_value_of_the_image_is_a_wrong_setting(tmp_path: Path) -> None:
    (tmp_path / "baked.json").write_text(json.dumps({"MODEL": "a/b", "MODEL_SHA256": "no hash"}))
    with pytest.raises(ConfigError, match='MODEL_SHA256="no hash"'):
        load_settings({"BAKED_MODELS": str(tmp_path)})
