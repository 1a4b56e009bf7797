"""Settings as values: bounds, immutability, and what they show of themselves."""

from __future__ import annotations

import math

import pytest
from pydantic import SecretStr, ValidationError

from gguf_worker.config import Settings, load_settings


def test_settings_built_in_code_obey_the_same_rules() -> None:
    assert Settings(model="a.gguf", ctx_size=512).ctx_size == 512
    with pytest.raises(ValidationError):
        Settings(model="a.gguf", ctx_size=1)
    with pytest.raises(ValidationError):
        Settings(model="a.gguf", batch_size=64, ubatch_size=128)
    with pytest.raises(ValidationError):
        Settings(model="a.gguf", request_timeout=math.inf)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Settings(model="a.gguf").ctx_size = 1  # type: ignore[misc]


SECRETS = {
    "HF_TOKEN": "hf_abcdef",
    "API_KEY": "key-abcdef",
    "REDIS_URL": "redis://user:pass%40abcdef@host/0",
    "AUDIT_DATABASE_URL": "postgresql+psycopg://u:pw-abcdef@h/d",
}


def test_secrets_are_hidden_wherever_settings_are_shown() -> None:
    settings = load_settings({"MODEL": "a.gguf", **SECRETS})
    assert "abcdef" not in repr(settings)
    assert "abcdef" not in str(settings.describe())
    assert "abcdef" not in str(settings.warnings)
    assert settings.api_key == SecretStr("key-abcdef")


def test_every_secret_and_the_passwords_inside_are_listed_for_the_log() -> None:
    assert set(load_settings({"MODEL": "a.gguf", **SECRETS}).secrets()) == {
        *SECRETS.values(),
        "pass%40abcdef",
        "pass@abcdef",
        "pw-abcdef",
    }


def test_describe_tells_value_and_origin_of_every_setting() -> None:
    settings = load_settings({"MODEL": "a.gguf", "CTX_SIZE": "512", "GPU_LAYERS": "all"})
    lines = {line.name: line for line in settings.describe()}
    assert set(lines) == {name.upper() for name in Settings.model_fields}
    assert (lines["CTX_SIZE"].value, lines["CTX_SIZE"].source) == (512, "environment")
    assert (lines["GPU_LAYERS"].value, lines["GPU_LAYERS"].source) == ("all", "environment")
    assert (lines["PORT"].value, lines["PORT"].source) == (8000, "default")
    assert lines["VOLUME_PATH"].value == "/runpod-volume"
    assert (lines["THREADS"].value, lines["THREADS"].source) == ("auto", "default")
    assert lines["SERVED_MODEL_NAME"].value == "auto"
    assert lines["API_KEY"].value is None
