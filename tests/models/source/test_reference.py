from __future__ import annotations

import pytest

from gguf_worker.errors import ConfigError
from gguf_worker.models.source import (
    Reference,
    is_commit,
    is_plain_path,
    is_repository,
    without_secrets,
)
from gguf_worker.models.source.hub_reference import HubCompanion, HubFile, HubQuant
from gguf_worker.models.source.registry import parse_reference

LOCAL = parse_reference("/models/a.gguf")
QUANT = parse_reference("org/repo:Q8_0")
FILE = parse_reference("org/repo/a-Q8_0.gguf")
WEB = parse_reference("https://example.com/a.gguf?signature=secret")


@pytest.mark.parametrize(
    ("reference", "source", "in_repository", "names_a_file", "needs_sha256"),
    [
        (LOCAL, "", False, True, False),
        (QUANT, "hub", True, False, False),
        (FILE, "hub", True, True, False),
        (WEB, "web", False, True, True),
    ],
    ids=str,
)
def test_a_reference_says_what_it_takes_to_have_its_model(
    reference: Reference, source: str, in_repository: bool, names_a_file: bool, needs_sha256: bool
) -> None:
    assert (reference.source, reference.in_repository) == (source, in_repository)
    assert (reference.names_a_file, reference.needs_sha256) == (names_a_file, needs_sha256)
    assert (reference.local_path is not None) == (source == "")


def test_an_address_is_shown_without_its_secrets_and_known_by_its_hash() -> None:
    assert WEB.hides_secrets
    assert str(WEB) == "https://example.com/a.gguf"
    assert [WEB.version("main", each) for each in ("ab" * 32, None)] == ["ab" * 32, "any hash"]
    assert QUANT.version("v2", "ab" * 32) == "v2"


def test_files_of_the_store_are_found_by_folder_and_name() -> None:
    files = ["a-Q4_0.gguf", "a-Q8_0.gguf"]
    assert (QUANT.folder, WEB.folder) == ("org/repo", "+url/sha256")
    assert list(QUANT.among(files, "main")) == ["a-Q8_0.gguf"]
    assert list(FILE.among(files, "main")) == ["a-Q8_0.gguf"]
    assert list(HubQuant("org/repo").among(files, "main")) == files
    assert list(HubQuant("org/repo", "F16").among(files, "main")) == []
    assert list(WEB.among(["a.gguf", "b.gguf"], "ab" * 32)) == ["a.gguf"]
    assert list(WEB.among(["b.gguf"], "ab" * 32)) == []


def test_any_part_of_a_split_model_means_its_first() -> None:
    parts = [f"big-{at:05d}-of-00002.gguf" for at in (1, 2)]
    assert list(HubFile("org/repo", parts[1]).among(parts, "main")) == parts[:1]


def test_several_files_of_one_quantisation_are_unclear() -> None:
    with pytest.raises(ConfigError, match="fits 2 files"):
        HubQuant("org/repo", "Q8_0").among(["a-Q8_0.gguf", "b-Q8_0.gguf"], "main")


def test_only_what_is_in_a_repository_has_companions() -> None:
    for reference in (QUANT, FILE):
        assert reference.companion("chat.jinja") == HubCompanion("org/repo", "chat.jinja")
    for reference in (LOCAL, WEB):
        with pytest.raises(ValueError, match="is in no repository"):
            reference.companion("chat.jinja")


def test_a_commit_is_a_hash_in_lower_case() -> None:
    assert is_commit("1f" * 20)
    assert is_commit("ab" * 32)
    assert not any(is_commit(each) for each in ("main", "1f" * 19, "AB" * 20, "../" + "1f" * 20))


def test_a_folder_with_a_plus_is_no_repositorys() -> None:
    assert is_repository(QUANT.folder)
    assert not is_repository(WEB.folder)


@pytest.mark.parametrize(
    ("file", "plain"),
    [("a/b c.gguf", True), ("../a.gguf", False), (".a.gguf", False), ("a//b.gguf", False)],
)
def test_a_plain_path_stays_in_its_folder(file: str, plain: bool) -> None:
    assert is_plain_path(file) is plain


def test_what_may_be_a_secret_is_left_out_of_any_text() -> None:
    assert without_secrets("https://me:word@a.test/x.gguf?sig=1") == "https://a.test/x.gguf"
    assert without_secrets("org/repo:Q8_0") == "org/repo:Q8_0"
