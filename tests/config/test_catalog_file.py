"""The catalog of models: what a file may say, and all that is wrong with one at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from gguf_worker.config import Catalog, Settings, load_settings
from gguf_worker.errors import ConfigError

TWO = """
models:
  small:
    model: org/small-GGUF:Q4_K_M
    aliases: [gpt-4o-mini, tiny]
    ctx_size: 4096
    keep_alive: 300
  embed:
    model: /models/embed.gguf
    revision: 0123abc
    sha256: 00000000000000000000000000000000000000000000000000000000000000E1
    pooling: mean
    flash_attention: on
    gpu_layers: all
    preload: yes
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "models.yaml"


def load(file: Path, text: str, **variables: str) -> Settings:
    file.write_text(dedent(text), encoding="utf-8")
    return load_settings({"MODELS_FILE": str(file), **variables})


def catalog(file: Path, text: str, **variables: str) -> Catalog:
    found = load(file, text, **variables).catalog
    assert found is not None
    return found


def faults(file: Path, text: str, **variables: str) -> list[str]:
    """Return the faults that are reported, below the line that names the file."""
    with pytest.raises(ConfigError) as caught:
        load(file, text, **variables)
    head, *lines = caught.value.message.splitlines()
    assert head == f"MODELS_FILE={file} is not usable:"
    return [line.strip() for line in lines]


def test_each_model_has_the_environments_settings_and_its_own_over_them(file: Path) -> None:
    small, embed = catalog(file, TWO, KV_TYPE="q8_0", CTX_SIZE="1024", HF_TOKEN="hf_x").entries
    assert (small.name, small.aliases) == ("small", ("gpt-4o-mini", "tiny"))
    assert (small.settings.model, small.settings.ctx_size) == ("org/small-GGUF:Q4_K_M", 4096)
    assert (small.settings.kv_type, embed.settings.kv_type) == ("q8_0", "q8_0")
    assert (embed.settings.ctx_size, embed.settings.pooling) == (1024, "mean")
    assert embed.settings.hf_token is not None
    assert (small.keep_alive, small.preload) == (300.0, False)
    assert (embed.keep_alive, embed.preload) == (None, True)
    assert embed.settings.model_revision == "0123abc"
    assert [entry.settings.served_model_name for entry in (small, embed)] == ["small", "embed"]


def test_values_are_read_as_the_environments_are_not_as_yaml_would(file: Path) -> None:
    _, embed = catalog(file, TWO).entries
    assert embed.settings.flash_attention == "on"
    assert embed.settings.gpu_layers == -1
    assert embed.settings.model_sha256 == "0" * 62 + "e1"


@pytest.mark.parametrize(
    ("given", "model"),
    [
        ({}, "org/small-GGUF:Q4_K_M"),
        ({"MODEL": "embed"}, "/models/embed.gguf"),
        ({"MODEL": "tiny"}, "org/small-GGUF:Q4_K_M"),
    ],
)
def test_the_worker_has_the_settings_of_the_model_that_is_named_or_the_first(
    file: Path, given: dict[str, str], model: str
) -> None:
    settings = load(file, TWO, **given)
    assert settings.model == model
    assert settings.models_file == file
    assert settings.warnings == ()


@pytest.mark.parametrize("name", ["plain", "auto"])
def test_the_default_is_the_model_that_is_named_whatever_it_is_called(
    file: Path, name: str
) -> None:
    text = "models: {plain: {model: a/b}, auto: {model: c/d}}"
    assert catalog(file, text, MODEL=name).default.name == name


def test_a_model_that_is_not_in_the_catalog_is_an_error_that_names_those_that_are(
    file: Path,
) -> None:
    with pytest.raises(ConfigError, match=r'MODEL="other" is no name .* which has: small, embed'):
        load(file, TWO, MODEL="other")


def test_each_value_is_reported_with_where_it_came_from(file: Path) -> None:
    settings = load(file, TWO, KV_TYPE="q8_0", CTX_SIZE="1024")
    sources = {line.name: line.source for line in settings.describe()}
    assert (sources["CTX_SIZE"], sources["MODEL"]) == ("MODELS_FILE", "MODELS_FILE")
    assert (sources["KV_TYPE"], sources["MODELS_FILE"]) == ("environment", "environment")
    assert sources["THREADS"] == "default"


def test_settings_of_the_one_model_are_not_taken_for_those_of_all(file: Path) -> None:
    settings = load(
        file,
        TWO,
        MODEL_REVISION="abc",
        MODEL_SHA256="1" * 64,
        SERVED_MODEL_NAME="x",
    )
    assert settings.catalog is not None
    small = settings.catalog.entries[0].settings
    assert (small.model_revision, small.model_sha256) == ("main", None)
    assert [warning.split()[0] for warning in settings.warnings] == [
        "MODEL_REVISION",
        "MODEL_SHA256",
        "SERVED_MODEL_NAME",
    ]


def test_a_name_or_an_alias_finds_its_model(file: Path) -> None:
    found = catalog(file, TWO)
    assert [entry and entry.name for entry in map(found.find, ("tiny", "small", "none"))] == [
        "small",
        "small",
        None,
    ]


def test_a_signed_address_in_the_catalog_is_a_secret(file: Path) -> None:
    address = "https://h.test/a.gguf?sig=abc"
    text = f"models: {{web: {{model: '{address}', sha256: {'0' * 64}}}, b: {{model: b.gguf}}}}"
    assert "sig=abc" in load(file, text, MODEL="b").secrets()


def test_every_fault_of_the_file_is_reported_at_once_with_its_place(file: Path) -> None:
    text = """
    models:
      a:
        model: a.gguf
        ctx_size: 12
        ctxsize: 4096
        kv_type: q9
        keep_alive: soon
        preload: perhaps
        aliases: {x: y}
      b:
        aliases: a
      c: d.gguf
      d:
        model: d.gguf
        ubatch_size: 1024
        batch_size: 512
      "":
        model: e.gguf
      e:
        model: e.gguf
        aliases: [a, f, f]
    roles: {}
    """
    assert faults(file, text) == [
        "roles: is not known; there is: models",
        "models.a.ctxsize: is not known: did you mean ctx_size?",
        "models.a.ctx_size: has to be auto or a whole number from 256 to 10000000",
        "models.a.kv_type: has to be one of auto, f16, f32, bf16, q8_0, q5_1, q5_0, q4_1, q4_0",
        "models.a.aliases: has to be a list of names of at most 256 characters",
        "models.a.keep_alive: has to be seconds from 0 to 604800",
        "models.a.preload: has to be true or false",
        "models.b.model: is missing; it has to be a path to a .gguf file, org/repo:QUANT, "
        "org/repo/file.gguf or https://host/file.gguf",
        "models.c: has to be a mapping, at least with the key `model`",
        "models.d: UBATCH_SIZE=1024 is more than BATCH_SIZE=512: lower the one or raise the other",
        "models.: a name has to have at most 256 characters",
        "models.e: the name f is that of models.e too",
    ]


def test_what_is_no_character_can_be_reported_all_the_same(file: Path) -> None:
    text = 'models: {"\\ud800": {model: a.gguf}, a: {model: a.gguf, "\\udfff": 1}}'
    found = faults(file, text)
    assert [fault.split(":")[0] for fault in found] == ["models.\\ud800", "models.a.\\udfff"]


def test_two_models_cannot_share_a_name(file: Path) -> None:
    text = "models: {a: {model: a.gguf, aliases: x}, b: {model: b.gguf, aliases: [a, x]}}"
    assert faults(file, text) == [
        "models.b: the name a is that of models.a too",
        "models.b: the name x is that of models.a too",
    ]


def test_a_key_that_is_there_twice_is_a_fault_and_not_the_last_one_that_counts(file: Path) -> None:
    text = "models:\n  a:\n    model: a.gguf\n    model: b.gguf\n  a:\n    model: c.gguf\n"
    assert faults(file, text) == [
        "models.a.model: is there twice, again in line 4",
        "models.a: is there twice, again in line 5",
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "it has to be a mapping with the key `models`"),
        ("- a", "it has to be a mapping with the key `models`"),
        ("models: []", "models: has to be a mapping from names to models, of at least one"),
        ("models: {}", "models: has to be a mapping from names to models, of at least one"),
        ("models: {a: {model: [}}", "line 1: it is not YAML: "),
        ("models: {a: {model: a.gguf, aliases: [[[[x]]]]}}", "models.a.aliases: this is nested"),
        ("? [a]\n: b", "line 1: a key has to be a text"),
        ("models: &m {a: *m}", "models.a: an alias (*) may stand for a text only"),
        ("a: " + "{a: " * 3000, "it is nested too deeply"),
        ("[" * 5000, "it is nested too deeply"),
    ],
)
def test_a_file_of_another_shape_is_reported(file: Path, text: str, fault: str) -> None:
    assert faults(file, text)[0].startswith(fault)


def test_a_few_aliases_that_stand_for_millions_of_values_cost_nothing(file: Path) -> None:
    bomb = f"x: [&b [&a [{'x,' * 900}], {'*a,' * 900}], {'*b,' * 900}]"
    assert faults(file, bomb) == ["x: an alias (*) may stand for a text only: write it out"]


def test_an_alias_may_stand_for_a_text(file: Path) -> None:
    text = "models: {a: {model: a.gguf, ctx_size: &c 4096}, b: {model: b.gguf, ctx_size: *c}}"
    assert [entry.settings.ctx_size for entry in catalog(file, text).entries] == [4096, 4096]


def test_a_model_at_an_address_without_its_checksum_is_reported_at_once(file: Path) -> None:
    text = "models: {a: {model: a.gguf}, web: {model: 'https://h.test/a.gguf'}}"
    assert faults(file, text) == [
        "models.web.sha256: is missing; a model at an https address has to have one"
    ]


def test_a_conflict_with_the_environment_is_reported_with_the_model(file: Path) -> None:
    text = "models: {a: {model: a.gguf, ctx_size: 4096}}"
    (fault,) = faults(file, text, KV_SIZE="1024")
    assert fault.startswith("models.a: KV_SIZE=1024 is less than CTX_SIZE=4096")


def test_a_file_that_cannot_be_read_is_reported(file: Path) -> None:
    with pytest.raises(ConfigError, match="it cannot be read: No such file"):
        load_settings({"MODELS_FILE": str(file)})


def test_a_file_of_megabytes_is_not_read(file: Path) -> None:
    assert faults(file, "#" * (1 << 20) + "\n") == ["it has more than 1048576 bytes"]


def test_bytes_that_are_no_text_are_no_yaml(file: Path) -> None:
    file.write_bytes(b"models: \xff")
    with pytest.raises(ConfigError, match="it is not YAML"):
        load_settings({"MODELS_FILE": str(file)})


def test_without_a_catalog_no_yaml_is_loaded() -> None:
    code = (
        "import sys; from gguf_worker.config import load_settings\n"
        "assert load_settings({'MODEL': 'a.gguf'}).catalog is None\n"
        "assert 'yaml' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
