from __future__ import annotations

from pathlib import Path

import pytest

from gguf_worker.console.command_settings import meant, settings_for, settings_of
from gguf_worker.errors import ConfigError

PINNED = {"MODEL": "org/a:Q4_0", "MODEL_REVISION": "v1", "MODEL_SHA256": "ab" * 32}


def test_without_a_name_the_settings_own_model_is_meant_as_it_is_pinned() -> None:
    for given in (None, "org/a:Q4_0"):
        settings = settings_for(PINNED, given)
        assert (settings.model, settings.model_revision) == ("org/a:Q4_0", "v1")
        assert settings.model_sha256 == "ab" * 32


def test_what_pins_the_settings_model_does_not_pin_another() -> None:
    settings = settings_for(PINNED, "org/b")
    assert (settings.model, settings.model_revision, settings.model_sha256) == (
        "org/b",
        "main",
        None,
    )


def test_what_is_written_behind_the_command_counts_most() -> None:
    settings = settings_for(PINNED, None, revision="v2", sha256="CD" * 32)
    assert settings.model_revision == "v2"
    assert settings.model_sha256 is not None
    assert settings.model_sha256.lower() == "cd" * 32


def test_no_model_at_all_is_an_error_where_one_is_needed() -> None:
    with pytest.raises(ConfigError, match="Name a model"):
        settings_for({"MODEL": " "}, None)
    assert settings_of({"VOLUME_PATH": "/volume", "MODEL": " "}).volume_path.name == "volume"


def test_a_wrong_sha256_is_refused_as_the_setting_would_be() -> None:
    with pytest.raises(ConfigError, match="MODEL_SHA256"):
        settings_for({}, "org/a", sha256="123")


@pytest.fixture
def catalog(tmp_path: Path) -> dict[str, str]:
    file = tmp_path / "models.yaml"
    file.write_text(
        "models: {small: {model: org/a:Q4_0, revision: v1}, "
        f"large: {{model: org/b:Q8_0, sha256: {'ab' * 32}, aliases: [big]}}}}"
    )
    return {"MODELS_FILE": str(file)}


@pytest.mark.parametrize("name", ["large", "big"])
def test_a_name_of_the_catalog_is_the_model_that_it_stands_for(
    catalog: dict[str, str], name: str
) -> None:
    settings = settings_for(catalog, name)
    assert (settings.model, settings.model_revision) == ("org/b:Q8_0", "main")
    assert settings.model_sha256 == "ab" * 32
    assert meant(catalog, name) == "org/b:Q8_0"


def test_without_a_name_the_catalogs_default_is_meant(catalog: dict[str, str]) -> None:
    assert settings_for(catalog, None).model_revision == "v1"
    assert settings_for({**catalog, "MODEL": "large"}, None).model == "org/b:Q8_0"


def test_a_model_beside_the_catalog_is_taken_as_it_is_written(catalog: dict[str, str]) -> None:
    assert settings_for(catalog, "org/c").model == "org/c"
    assert meant(catalog, "org/c") == "org/c"
    assert settings_for(catalog, "small", revision="v2").model_revision == "v2"
    assert settings_of(catalog).catalog is None


def test_a_model_of_the_catalog_has_its_own_settings_and_one_beside_it_the_environments(
    tmp_path: Path,
) -> None:
    file = tmp_path / "models.yaml"
    file.write_text("models: {a: {model: org/a}, b: {model: org/b, ctx_size: 4096}}")
    environ = {"MODELS_FILE": str(file), "CTX_SIZE": "1024"}
    settings = settings_for(environ, "b", revision="v2")
    assert (settings.ctx_size, settings.model_revision) == (4096, "v2")
    assert settings.catalog is not None
    beside = settings_for(environ, "org/c")
    assert (beside.ctx_size, beside.catalog) == (1024, None)
