from __future__ import annotations

import logging
from pathlib import Path

import pytest

from gguf_worker.errors import ConfigError
from gguf_worker.models.source.hub_cache import CachedFile, CachedModels
from gguf_worker.models.source.hub_reference import HubFile, HubQuant

REPO = "Org/Tiny-GGUF"
COMMIT = "1f" * 20
OLDER = "0e" * 20
SHA256 = "ab" * 32
FILE = HubFile(REPO, "tiny-Q8_0.gguf")


def _put(
    root: Path,
    name: str = "tiny-Q8_0.gguf",
    *,
    folder: str = "models--Org--Tiny-GGUF",
    commit: str = COMMIT,
    blob: str = SHA256,
    whole: bool = True,
) -> Path:
    """A file as the Hub's library leaves it: a link to its content."""
    content = root / folder / "blobs" / blob
    content.parent.mkdir(parents=True, exist_ok=True)
    if whole:
        content.write_bytes(b"GGUF")
    path = root / folder / "snapshots" / commit / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(content)
    return path


def _note(
    root: Path, commit: str, branch: str = "main", folder: str = "models--Org--Tiny-GGUF"
) -> None:
    refs = root / folder / "refs" / branch
    refs.parent.mkdir(parents=True, exist_ok=True)
    refs.write_text(commit)


def test_a_cached_file_is_found_by_the_branch_with_its_commit_and_hash(tmp_path: Path) -> None:
    _put(tmp_path, commit=OLDER, blob="cd" * 32)
    path = _put(tmp_path)
    _note(tmp_path, COMMIT)
    expected = CachedFile(path, REPO, "tiny-Q8_0.gguf", COMMIT, SHA256)
    assert CachedModels([tmp_path]).find(FILE, "main") == expected
    assert CachedModels([tmp_path]).find(HubQuant(REPO, "q8_0"), "main") == expected
    assert CachedModels([tmp_path]).find(HubQuant(REPO), "main") == expected


@pytest.mark.parametrize("folder", ["models--org--tiny-gguf", "models--ORG--Tiny-GGUF"])
def test_the_case_of_the_name_does_not_matter(tmp_path: Path, folder: str) -> None:
    path = _put(tmp_path, folder=folder)
    found = CachedModels([tmp_path]).find(FILE, "main")
    assert found is not None
    assert found.path == path


def test_without_a_note_of_the_branch_the_only_snapshot_is_main(tmp_path: Path) -> None:
    path = _put(tmp_path)
    cached = CachedModels([tmp_path])
    found = cached.find(FILE, "main")
    assert found is not None
    assert found.path == path
    assert cached.find(FILE, "another") is None
    _put(tmp_path, commit=OLDER, blob="cd" * 32)
    assert cached.find(FILE, "main") is None


def test_another_branch_and_a_commit_find_their_own_snapshots(tmp_path: Path) -> None:
    new, old = _put(tmp_path), _put(tmp_path, commit=OLDER, blob="cd" * 32)
    _note(tmp_path, COMMIT)
    _note(tmp_path, OLDER, "v1")
    cached = CachedModels([tmp_path])
    found = [cached.find(FILE, revision) for revision in ("main", "v1", OLDER, "2d" * 20)]
    assert [each and each.path for each in found] == [new, old, old, None]


@pytest.mark.parametrize("noted", ["../../../etc", "", "no commit"])
def test_a_note_that_names_no_commit_is_as_good_as_none(tmp_path: Path, noted: str) -> None:
    _put(tmp_path)
    _note(tmp_path, noted)
    assert CachedModels([tmp_path]).find(FILE, "main") is not None


def test_a_file_whose_content_has_not_come_is_not_found(tmp_path: Path) -> None:
    _put(tmp_path, whole=False)
    assert CachedModels([tmp_path]).find(FILE, "main") is None


def test_a_repository_without_the_file_is_not_half_of_it(tmp_path: Path) -> None:
    _put(tmp_path, "README.md")
    assert CachedModels([tmp_path]).find(FILE, "main") is None
    assert CachedModels([tmp_path]).find(HubQuant(REPO), "main") is None


def test_the_first_cache_that_has_it_is_taken(tmp_path: Path) -> None:
    second, third = _put(tmp_path / "second"), _put(tmp_path / "third")
    cached = CachedModels([tmp_path / "absent", tmp_path / "second", tmp_path / "third"])
    found = cached.find(FILE, "main")
    assert found is not None
    assert found.path == second != third


def test_a_link_out_of_the_cache_is_not_followed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outside = tmp_path / "secret.gguf"
    outside.write_bytes(b"GGUF")
    path = tmp_path / "root" / "models--Org--Tiny-GGUF" / "snapshots" / COMMIT / "tiny-Q8_0.gguf"
    path.parent.mkdir(parents=True)
    path.symlink_to(outside)
    with caplog.at_level(logging.WARNING):
        assert CachedModels([tmp_path / "root"]).find(FILE, "main") is None
    assert "leads out of" in caplog.text


def test_a_file_that_is_no_link_has_no_known_hash(tmp_path: Path) -> None:
    path = tmp_path / "models--Org--Tiny-GGUF" / "snapshots" / COMMIT / "tiny-Q8_0.gguf"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"GGUF")
    found = CachedModels([tmp_path]).find(FILE, "main")
    assert found is not None
    assert found.sha256 is None


def test_several_files_that_fit_are_named_with_the_place(tmp_path: Path) -> None:
    _put(tmp_path, "a-Q4_0.gguf")
    _put(tmp_path, "b-Q4_0.gguf")
    with pytest.raises(ConfigError, match=r"fits 2 files.*snapshots"):
        CachedModels([tmp_path]).find(HubQuant(REPO, "Q4_0"), "main")
