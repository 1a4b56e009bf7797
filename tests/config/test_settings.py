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


def test_the_queries_of_adapters_addresses_are_hidden_and_kept_out_of_the_log() -> None:
    given = "https://a.test/x.gguf?sig=one, /b.gguf,\nhttps://a.test/y.gguf?sig=two scale=0.5"
    settings = Settings(model="m", lora_adapters=given)
    (shown,) = [each.value for each in settings.describe() if each.name == "LORA_ADAPTERS"]
    hidden = "https://a.test/x.gguf?***, /b.gguf,\nhttps://a.test/y.gguf?*** scale=0.5"
    assert shown == hidden
    assert settings.secrets() == ("sig=one", "sig=two")


def test_the_query_of_a_models_address_is_hidden_and_kept_out_of_the_log() -> None:
    settings = load_settings({"MODEL": "https://example.com/a.gguf?signature=secret"})
    assert "signature=secret" in settings.secrets()
    lines = {line.name: line.value for line in settings.describe()}
    assert lines["MODEL"] == "https://example.com/a.gguf?***"
    assert load_settings({"MODEL": "./what?.gguf"}).secrets() == ()


def test_a_query_that_begins_as_another_does_is_hidden_in_full() -> None:
    given = "https://a.test/x.gguf?sig=ab,c\tscale=1\nhttp://a.test/y.gguf?sig=ab,cdef"
    settings = load_settings({"MODEL": "m", "LORA_ADAPTERS": given})
    (shown,) = [each.value for each in settings.describe() if each.name == "LORA_ADAPTERS"]
    assert shown == "https://a.test/x.gguf?***\tscale=1\nhttp://a.test/y.gguf?***"
    assert settings.secrets() == ("sig=ab,c", "sig=ab,cdef")


def test_every_secret_and_the_passwords_inside_are_listed_for_the_log() -> None:
    assert set(load_settings({"MODEL": "a.gguf", **SECRETS}).secrets()) == {
        *SECRETS.values(),
        "pass%40abcdef",
        "pass@abcdef",
        "pw-abcdef",
    }


@pytest.mark.parametrize("text", ["one,two", "one, two,", "one\ntwo\r\n", "\n one ,\n two"])
def test_api_key_may_hold_several_and_each_is_a_secret(text: str) -> None:
    settings = load_settings({"MODEL": "a.gguf", "API_KEY": text})
    assert settings.api_keys == ("one", "two")
    assert {"one", "two"} <= set(settings.secrets())


def test_without_keys_and_origins_there_are_none() -> None:
    settings = Settings(model="a.gguf", api_key=None, cors_origins=None)
    assert (settings.api_keys, settings.origins) == ((), ())


def test_a_served_name_is_bounded_and_all_of_them_are_split() -> None:
    settings = Settings(model="a.gguf", served_model_name=" sea , gpt-4o,*")
    assert settings.served_names == ("sea", "gpt-4o", "*")
    assert Settings(model="a.gguf").served_names == ()
    with pytest.raises(ValidationError):
        Settings(model="a.gguf", served_model_name="a," + "b" * 257)


def test_origins_are_split() -> None:
    settings = load_settings({"MODEL": "a.gguf", "CORS_ORIGINS": "https://a, http://b:1"})
    assert settings.origins == ("https://a", "http://b:1")


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
