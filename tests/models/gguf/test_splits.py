from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from gguf_worker.errors import ModelCorrupt, ModelUnavailable, ModelUnsupported
from gguf_worker.models.gguf import read_header
from gguf_worker.models.gguf.splits import parts_of
from tests.tiny_gguf import write_tiny


@pytest.fixture
def first(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "tiny.gguf", tensors_per_file=8)


def _parts(first: Path) -> list[Path]:
    return [first.with_name(name) for name in parts_of(first.name)]


def test_the_parts_of_a_split_model_are_read_as_one(first: Path, tmp_path: Path) -> None:
    whole = read_header(write_tiny(tmp_path / "whole.gguf"))
    parts = _parts(first)
    assert len(parts) > 2
    size = sum(part.stat().st_size for part in parts)
    assert read_header(first) == dataclasses.replace(whole, path=first, file_bytes=size)


def test_a_missing_part_is_named(first: Path) -> None:
    gone = _parts(first)[1]
    gone.unlink()
    with pytest.raises(ModelUnavailable, match=rf"{gone.name} is not beside it"):
        read_header(first)


def test_a_part_that_is_not_the_first_says_which_to_name(first: Path) -> None:
    with pytest.raises(ModelUnsupported, match=r"Name the first part.*-00001-of-"):
        read_header(_parts(first)[1])


def test_a_first_part_under_another_name_cannot_find_the_others(first: Path) -> None:
    with pytest.raises(ModelUnsupported, match="keep the others beside it"):
        read_header(first.rename(first.with_name("model.gguf")))


def test_a_truncated_part_is_corrupt(first: Path) -> None:
    last = _parts(first)[-1]
    last.write_bytes(last.read_bytes()[:-100])
    with pytest.raises(ModelCorrupt, match=last.name):
        read_header(first)


def test_parts_that_were_exchanged_are_corrupt(first: Path) -> None:
    parts = _parts(first)
    shutil.copyfile(parts[2], parts[1])
    with pytest.raises(ModelCorrupt, match="is not part 2 of"):
        read_header(first)


def test_a_part_of_another_model_is_corrupt(first: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = write_tiny(tmp_path / "other" / "tiny.gguf", layers=3, tensors_per_file=13)
    parts, others = _parts(first), _parts(other)
    assert len(parts) == len(others)
    shutil.copyfile(others[-1], parts[-1])
    with pytest.raises(ModelCorrupt, match="tensors instead of"):
        read_header(first)
