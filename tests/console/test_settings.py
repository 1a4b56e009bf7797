from __future__ import annotations

import pytest

from gguf_worker.console.settings import settings_for, settings_of
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
