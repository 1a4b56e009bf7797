from __future__ import annotations

import re
from pathlib import Path

import pytest

from gguf_worker.errors import ConfigError
from gguf_worker.models.source import SourceAccess, open_sources, parse_reference
from gguf_worker.models.source.hub_reference import HubFile, HubQuant
from gguf_worker.models.source.protocol import SourceKind
from gguf_worker.models.source.reference import LocalFile
from gguf_worker.models.source.registry import SOURCES
from gguf_worker.models.source.web import WebFile


@pytest.mark.parametrize("text", ["/models/a.gguf", "./a.gguf", "../a.gguf", "/models/no-ending"])
def test_a_path_is_a_local_file_whether_it_exists_or_not(text: str) -> None:
    assert parse_reference(text) == LocalFile(Path(text))


def test_a_home_path_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert parse_reference("~/a.gguf") == LocalFile(Path("/home/someone/a.gguf"))


def test_a_bare_file_name_is_a_local_file() -> None:
    assert parse_reference("a.gguf") == LocalFile(Path("a.gguf"))


def test_a_relative_path_that_could_be_on_the_hub_is_local_only_if_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_reference("org/repo/a.gguf") == HubFile("org/repo", "a.gguf")
    (tmp_path / "org/repo").mkdir(parents=True)
    (tmp_path / "org/repo/a.gguf").touch()
    assert parse_reference("org/repo/a.gguf") == LocalFile(Path("org/repo/a.gguf"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Qwen/Qwen3-8B-GGUF:Q4_K_M", HubQuant("Qwen/Qwen3-8B-GGUF", "Q4_K_M")),
        ("Qwen/Qwen3-8B-GGUF:UD-Q4_K_XL", HubQuant("Qwen/Qwen3-8B-GGUF", "UD-Q4_K_XL")),
        ("  Qwen/Qwen3-8B-GGUF\n", HubQuant("Qwen/Qwen3-8B-GGUF", None)),
        ("org/repo/Q8_0/a b-Q8_0.GGUF", HubFile("org/repo", "Q8_0/a b-Q8_0.GGUF")),
        ("org/re.po_1/ünï[1].gguf", HubFile("org/re.po_1", "ünï[1].gguf")),
    ],
)
def test_a_hub_reference_is_read(text: str, expected: HubQuant | HubFile) -> None:
    assert parse_reference(text) == expected


@pytest.mark.parametrize(
    "text", ["Qwen/Qwen3-8B-GGUF:Q4_K_M", "Qwen/Qwen3-8B-GGUF", "org/repo/sub/a.gguf", "/a/b.gguf"]
)
def test_a_reference_prints_as_it_was_written(text: str) -> None:
    assert str(parse_reference(text)) == text


def test_an_https_address_is_a_file_of_the_web_and_its_query_is_not_shown() -> None:
    url = "https://example.com:8443/a/b/My%20Model.GGUF?signature=secret&x=" + "y" * 2000
    assert parse_reference(f" {url} ") == WebFile(url, "My Model.GGUF")
    assert str(parse_reference(url)) == "https://example.com:8443/a/b/My%20Model.GGUF"


@pytest.mark.parametrize(
    "url",
    [
        "https://",
        "https:///a.gguf",
        "https://example.com",
        "https://example.com/",
        "https://example.com/a.bin?secret=1",
        "https://example.com/a.gguf#secret",
        "https://user:secret@example.com/a.gguf",
        "https://example.com/..gguf?secret=1",
        "https://example.com/.hidden.gguf?secret=1",
        "https://example.com:port/a.gguf?secret=1",
        "https://[::1/a.gguf?secret=1",
        "https://exämple.com/a.gguf?secret=1",
        "https://example.com/a b.gguf?secret=1",
        "https://example.com/a-00001-of-00002.gguf?secret=1",
        "https://huggingface.co/org/repo/resolve/main/a.gguf?secret=1",
        "http://example.com/a.gguf",
    ],
)
def test_an_address_that_is_not_of_one_file_is_refused_without_its_query(url: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_reference(url)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "model",
        "org/",
        "org/../etc:Q4_0",
        "org/repo/../../../etc/passwd.gguf",
        "org/repo//a.gguf",
        "org/repo/./a.gguf",
        "org/repo/.hidden.gguf",
        "org/repo/a\\b.gguf",
        "org/repo/a\x00.gguf",
        "org/repo/a\u202e.gguf",
        "org/repo/a?b=c.gguf",
        "org/repo/a%2e%2e.gguf",
        "org/repo/README.md",
        "org/repo:",
        "org/repo:Q4/../x",
        "org/repo:Q4_0/a.gguf",
        "-org/repo",
        "o--rg/repo",
        "org/repo.",
        "https://huggingface.co/org/repo/resolve/main/a.gguf",
        "org/repo/" + "a" * 300 + ".gguf",
        "org/repo/" + "é" * 120 + ".gguf",
        "x" * 2000,
    ],
)
def test_anything_else_is_refused_with_an_example_of_each_form(text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_reference(text)
    message = str(refused.value)
    assert refused.value.param == "MODEL"
    assert "./my-model.gguf" in message
    assert "Qwen/Qwen3-8B-GGUF:Q4_K_M" in message
    assert "Qwen/Qwen3-8B-GGUF/Qwen3-8B-Q4_K_M.gguf" in message
    assert message.isprintable()
    assert len(message) < 800


def test_a_home_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match="home directory"):
        parse_reference("~nobody-of-that-name/a.gguf")


def test_all_sources_are_opened_by_their_names_and_none_is_asked() -> None:
    with open_sources(SourceAccess("http://127.0.0.1:9", "hf_secret")) as sources:
        assert list(sources) == [kind.name for kind in SOURCES]
        assert all(source.title for source in sources.values())


def test_no_two_sources_have_one_name_or_one_scheme() -> None:
    assert len({kind.name for kind in SOURCES}) == len({kind.scheme for kind in SOURCES})
    assert len({kind.scheme for kind in SOURCES}) == len(SOURCES)


@pytest.mark.parametrize("kind", SOURCES, ids=lambda kind: kind.name)
def test_the_example_of_each_form_is_a_reference_to_its_source(kind: SourceKind) -> None:
    for form in kind.forms:
        for example in re.findall(r"\((\S+)\)", form):
            assert parse_reference(example).source == kind.name


def test_a_reference_goes_to_a_source_that_there_is() -> None:
    for text in ("org/repo:Q8_0", "org/repo/a.gguf", "https://example.com/a.gguf"):
        assert parse_reference(text).source in {kind.name for kind in SOURCES}


def test_another_setting_is_named_without_the_forms_of_model() -> None:
    with pytest.raises(ConfigError) as refused:
        parse_reference("ftp://example.com/a.gguf", setting="LORA_ADAPTERS")
    assert refused.value.param == "LORA_ADAPTERS"
    assert refused.value.message == (
        "LORA_ADAPTERS='ftp://example.com/a.gguf' is a URL, and none of https."
    )
