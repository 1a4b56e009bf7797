from __future__ import annotations

import dataclasses
import errno
import shutil
from pathlib import Path

import pytest

from gguf_worker.errors import ModelCorrupt, ModelUnavailable, ModelUnsupported, start_error
from gguf_worker.models.gguf import read_header
from gguf_worker.models.gguf.container import Container, read_container
from gguf_worker.models.gguf.splits import is_gguf, join, parts_of, stem_of
from tests.tiny_gguf import write_tiny

# Names.


def test_any_part_names_all_parts_in_order() -> None:
    expected = tuple(f"a/m-Q8_0-{at:05d}-of-00003.gguf" for at in (1, 2, 3))
    for name in expected:
        assert parts_of(name) == expected


@pytest.mark.parametrize(
    "name",
    [
        "m.gguf",
        "m-00001-of-00002.bin",
        "m-1-of-2.gguf",
        "m-00003-of-00002.gguf",
        "m-00000-of-00002.gguf",
        "m-00001-of-01000.gguf",
        "m-00001-of-99999.gguf",
    ],
)
def test_a_name_that_is_no_parts_stands_for_itself(name: str) -> None:
    assert parts_of(name) == (name,)


def test_the_stem_is_the_name_without_ending_and_number() -> None:
    assert stem_of("a/m-Q8_0-00002-of-00003.gguf") == "a/m-Q8_0"
    assert stem_of("m-Q8_0.gguf") == stem_of("m-Q8_0.GGUF") == "m-Q8_0"


def test_a_model_is_known_by_the_ending_of_its_name() -> None:
    assert is_gguf("a/m.gguf")
    assert is_gguf("M.GGUF")
    assert not is_gguf("chat_template.jinja")


# Containers.


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


def test_a_part_that_cannot_be_read_now_is_not_said_to_be_missing(tmp_path: Path) -> None:
    first = write_tiny(tmp_path / "m.gguf", tensors_per_file=10)

    def read(path: Path) -> Container:
        raise start_error(OSError(errno.ESTALE, "Stale file handle"), f"reading {path}")

    with pytest.raises(ModelUnavailable, match="Stale file handle") as failed:
        join(read_container(first), read)
    assert not failed.value.permanent
