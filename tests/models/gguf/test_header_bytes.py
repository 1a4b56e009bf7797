from __future__ import annotations

import io
import struct
from pathlib import Path

import pytest

from gguf_worker.errors import ModelCorrupt
from gguf_worker.models.gguf import read_header
from gguf_worker.models.gguf.header_bytes import HeaderBytes, text_at


def _bytes(data: bytes, size: int | None = None) -> HeaderBytes:
    file = io.BytesIO(data)
    return HeaderBytes(Path("a.gguf"), len(data) if size is None else size, file.read)


def _string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def test_numbers_and_strings_are_read_one_behind_the_other() -> None:
    header = _bytes(struct.pack("<IQhh", 7, 2**40, -1, 5) + _string("größe") + b"rest")
    assert header.peek(4) == struct.pack("<I", 7)
    assert (header.u32(), header.u64()) == (7, 2**40)
    assert header.scalars(struct.Struct("<h"), 2) == (-1, 5)
    assert header.text() == "größe"
    assert header.peek(100)[header.position :] == b"rest"


def test_strings_are_skipped_and_each_can_be_read_later() -> None:
    header = _bytes(b"".join(map(_string, ("a", "", "bcd"))) + struct.pack("<I", 3))
    starts = header.strings(3)
    assert [text_at(header.buffer, start) for start in starts] == ["a", "", "bcd"]
    assert header.u32() == 3


def test_a_file_that_shrinks_while_it_is_read_is_corrupt() -> None:
    with pytest.raises(ModelCorrupt, match="shrank while it was read"):
        _bytes(b"1234", size=8).u64()


def test_a_file_cut_anywhere_in_its_header_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    content = tiny_model.read_bytes()
    cut = tmp_path / "cut.gguf"
    for length in [*range(200), *range(200, 18_000, 311)]:
        cut.write_bytes(content[:length])
        with pytest.raises(ModelCorrupt):
            read_header(cut)


def test_a_header_never_takes_more_memory_than_the_file_is_large(tmp_path: Path) -> None:
    """A string of a claimed gigabyte in a large sparse file is refused, not read."""
    path = tmp_path / "a.gguf"
    with path.open("wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQQ", 3, 1, 1, 1 << 30))
        file.truncate(2 << 30)
    with pytest.raises(ModelCorrupt, match="which no model has"):
        read_header(path)
