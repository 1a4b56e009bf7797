"""Reading the environment: what is accepted, what is refused, and what is said about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from gguf_worker.config import Settings, load_settings
from gguf_worker.errors import ConfigError

MODEL = {"MODEL": "/models/a.gguf"}


def load(**variables: str) -> Settings:
    return load_settings({**MODEL, **variables})


def complaint(environ: dict[str, str]) -> str:
    with pytest.raises(ConfigError) as caught:
        load_settings(environ)
    return str(caught.value)


def test_a_model_is_enough() -> None:
    settings = load()
    assert settings.model == "/models/a.gguf"
    assert settings.ctx_size is None
    assert settings.request_timeout == 600
    assert settings.volume_path == Path("/runpod-volume")
    assert settings.warnings == ()


def test_a_missing_model_is_an_error_that_says_what_it_may_be() -> None:
    text = complaint({})
    assert "MODEL is not set" in text
    assert "org/repo:QUANT" in text


@pytest.mark.parametrize("empty", ["", "   ", "\n"])
def test_an_empty_value_counts_as_not_set(empty: str) -> None:
    settings = load(CTX_SIZE=empty, API_KEY=empty, LOG_LEVEL=empty)
    assert settings.ctx_size is None
    assert settings.api_key is None
    assert settings.log_level == "info"
    assert "MODEL is not set" in complaint({"MODEL": empty})


@pytest.mark.parametrize("auto", ["auto", "AUTO", "Auto", " auto\n"])
@pytest.mark.parametrize(
    "name",
    [
        "CTX_SIZE",
        "MAX_CONCURRENCY",
        "KV_SIZE",
        "GPU_LAYERS",
        "KV_TYPE",
        "FLASH_ATTENTION",
        "THREADS",
        "BATCH_SIZE",
        "UBATCH_SIZE",
        "MAX_QUEUE",
        "SERVED_MODEL_NAME",
        "POOLING",
    ],
)
def test_auto_in_any_case_is_none(name: str, auto: str) -> None:
    assert getattr(load(**{name: auto}), name.lower()) is None


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("CTX_SIZE", "4096", 4096),
        ("CTX_SIZE", " 4096\n", 4096),
        ("GPU_LAYERS", "all", -1),
        ("GPU_LAYERS", "ALL", -1),
        ("GPU_LAYERS", "0", 0),
        ("KV_TYPE", "Q8_0", "q8_0"),
        ("FLASH_ATTENTION", "ON", "on"),
        ("MAX_QUEUE", "0", 0),
        ("MODEL_SHA256", "AB" * 32, "ab" * 32),
        ("MODEL_REVISION", "refs/pr/3", "refs/pr/3"),
        ("HF_ENDPOINT", "http://localhost:8080/", "http://localhost:8080"),
        ("WORKER_MODE", "HTTP", "http"),
        ("HOST", "::", "::"),
        ("PORT_HEALTH", "8080", 8080),
        ("SERVED_MODEL_NAME", "sea, gpt-4o ,*", "sea, gpt-4o, *"),
        ("SERVED_MODEL_NAME", "auto", None),
        ("STREAM_KEEP_ALIVE", "0", 0.0),
        ("CORS_ORIGINS", "*", "*"),
        ("CORS_ORIGINS", "HTTPS://A.example/,\nhttp://b:3000", "https://a.example, http://b:3000"),
        ("REQUEST_TIMEOUT", "1.5", 1.5),
        ("LOG_LEVEL", "DEBUG", "debug"),
        ("SERVED_MODEL_NAME", "Türkçe modeli", "Türkçe modeli"),
    ],
)
def test_a_good_value_is_read(name: str, given: str, value: object) -> None:
    assert getattr(load(**{name: given}), name.lower()) == value


@pytest.mark.parametrize(
    ("name", "given", "allowed"),
    [
        ("MODEL", "a\tb", "org/repo/file.gguf"),
        ("MODEL_REVISION", "../../etc", "a branch, tag or commit"),
        ("MODEL_REVISION", "-x", "a branch, tag or commit"),
        ("MODEL_SHA256", "abc", "64 hexadecimal digits"),
        ("HF_ENDPOINT", "huggingface.co", "an http(s) address"),
        ("HF_ENDPOINT", "https://user:word@hub", "without user name and password"),
        ("CTX_SIZE", "255", "auto or a whole number from 256 to 10000000"),
        ("CTX_SIZE", "8k", "auto or a whole number from 256 to 10000000"),
        ("CTX_SIZE", "4096.5", "auto or a whole number"),
        ("MAX_CONCURRENCY", "0", "from 1 to 256"),
        ("MAX_CONCURRENCY", "257", "from 1 to 256"),
        ("GPU_LAYERS", "-2", "auto, all, or a whole number from 0 to 10000"),
        ("KV_TYPE", "q3", "one of auto, f16, f32"),
        ("FLASH_ATTENTION", "yes", "one of auto, on, off"),
        ("THREADS", "0", "from 1 to 512"),
        ("BATCH_SIZE", "31", "from 32 to 65536"),
        ("MAX_QUEUE", "-1", "from 0 to 100000"),
        ("POOLING", "max", "one of auto, none, mean, cls, last, rank"),
        ("REQUEST_TIMEOUT", "nan", "a number from 1"),
        ("REQUEST_TIMEOUT", "0", "a number from 1"),
        ("ENGINE_TIMEOUT", "inf", "a number from 1 to 3600"),
        ("WORKER_MODE", "grpc", "one of queue, http"),
        ("HOST", "a b", "an IP address or a host name"),
        ("PORT", "70000", "a whole number from 1 to 65535"),
        ("PORT_HEALTH", "0", "a whole number from 1 to 65535"),
        ("SERVED_MODEL_NAME", ",", "names of at most 256 characters, separated by commas"),
        ("STREAM_KEEP_ALIVE", "-1", "from 0"),
        ("CORS_ORIGINS", "a.example", "http(s)://host[:port]"),
        ("CORS_ORIGINS", "https://a.example/page", "http(s)://host[:port]"),
        ("CORS_ORIGINS", "https://a.example https://b.example", "separated by commas"),
        ("CORS_ORIGINS", ",", "separated by commas"),
        ("LOG_LEVEL", "loud", "one of debug, info, warning, error"),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(name: str, given: str, allowed: str) -> None:
    (line,) = complaint({**MODEL, name: given}).splitlines()[1:]
    assert name in line
    assert allowed in line
    assert given.replace("user:word", "***").encode("unicode_escape").decode() in line


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("HF_TOKEN", "hf secret"),
        ("API_KEY", "schlüssel-secret"),
        ("API_KEY", "good,secret two"),
        ("API_KEY", ",\n,"),
        ("REDIS_URL", "http://secret@host"),
        ("AUDIT_DATABASE_URL", "secret"),
    ],
)
def test_a_bad_secret_is_refused_without_being_shown(name: str, given: str) -> None:
    text = complaint({**MODEL, name: given})
    assert f"{name}=***" in text
    assert "secret" not in text


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("MODEL", "https://a.test/x.gguf?sig=secret\tsecret"),
        ("LORA_ADAPTERS", "https://a.test/x.gguf?sig=secret\x01 /b.gguf secret"),
        ("HF_ENDPOINT", "https://me:secret@a.test"),
    ],
)
def test_a_bad_value_with_an_address_is_shown_without_its_secrets(name: str, given: str) -> None:
    text = complaint({**MODEL, name: given})
    assert f'{name}="https://' in text
    assert "a.test" in text
    assert "***" in text
    assert "secret" not in text


def test_all_bad_values_are_in_one_message() -> None:
    text = complaint({"CTX_SIZE": "1", "PORT": "x", "LOG_LEVEL": "loud"})
    for name in ("MODEL", "CTX_SIZE", "PORT", "LOG_LEVEL"):
        assert f"  {name}" in text
    assert len(text.splitlines()) == 5


def test_a_bad_value_does_not_hide_a_contradiction_between_two_good_ones() -> None:
    text = complaint({"PORT": "x", "BATCH_SIZE": "64", "UBATCH_SIZE": "128"})
    assert "UBATCH_SIZE=128 is more than BATCH_SIZE=64" in text
    assert "PORT" in text
    assert "MODEL is not set" in text


def test_a_long_bad_value_is_cut() -> None:
    assert len(complaint({**MODEL, "CTX_SIZE": "9" * 100_000})) < 1_000


def test_a_line_break_in_a_bad_value_does_not_break_the_message() -> None:
    assert len(complaint({**MODEL, "CTX_SIZE": "1\n2"}).splitlines()) == 2


def test_a_step_has_room_for_every_request() -> None:
    text = complaint({**MODEL, "MAX_CONCURRENCY": "64", "BATCH_SIZE": "32"})
    assert "MAX_CONCURRENCY=64 is more than BATCH_SIZE=32" in text
    assert load(MAX_CONCURRENCY="32", BATCH_SIZE="32").batch_size == 32


@pytest.mark.parametrize("kind", ["q8_0", "q5_1", "q5_0", "q4_1", "q4_0"])
def test_a_quantised_cache_needs_flash_attention(kind: str) -> None:
    assert f"KV_TYPE={kind}" in complaint({**MODEL, "KV_TYPE": kind, "FLASH_ATTENTION": "off"})
    assert load(KV_TYPE=kind).kv_type == kind


def test_a_cache_smaller_than_one_request_is_refused() -> None:
    text = complaint({**MODEL, "KV_SIZE": "1024", "CTX_SIZE": "4096"})
    assert "KV_SIZE=1024 is less than CTX_SIZE=4096" in text


def test_a_variable_of_another_worker_is_no_news_once_ours_is_set() -> None:
    assert load(MODEL_NAME="x", MODEL_REPO="y").warnings == ()


def test_a_missing_model_names_the_variable_that_was_meant_to_be_it() -> None:
    assert "(MODEL_NAME is set: did you mean MODEL?)" in complaint({"MODEL_NAME": "a/b"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REDIS_URL", "redis://h/0"),
        ("AUDIT_DATABASE_URL", "sqlite:///a.db"),
    ],
)
def test_a_setting_without_effect_yet_says_so(name: str, value: str) -> None:
    assert load(**{name: value}).warnings == (f"{name} is set, but has no effect in this version.",)
