from __future__ import annotations

import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest

from gguf_worker.errors import ModelCorrupt, ModelUnavailable, ModelUnsupported
from gguf_worker.models.gguf import parse_container, read_container, read_header
from tests.tiny_gguf import write_tiny


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A model of the test's own, to be damaged."""
    return Path(shutil.copy(tiny_model, tmp_path / "tiny.gguf"))


def test_a_container_has_the_metadata_and_the_tensors_of_its_file(model: Path) -> None:
    container = read_container(model)
    reader = gguf.GGUFReader(model)
    assert (container.path, container.version) == (model, 3)
    assert container.size == model.stat().st_size
    assert container.texts["general.architecture"] == "llama"
    assert container.values["llama.block_count"] == 2
    assert [(each.name, each.bytes) for each in container.tensors] == [
        (each.name, int(each.n_bytes)) for each in reader.tensors
    ]
    assert container.token(256) == "<|endoftext|>"


def test_long_lists_are_read_over_and_short_ones_kept(tmp_path: Path) -> None:
    metadata = {"a.short": [1, 2, 3], "a.long": [0] * 5000}
    container = read_container(write_tiny(tmp_path / "a.gguf", metadata=metadata))
    assert container.values["a.short"] == (1, 2, 3)
    assert "a.long" not in container.values


def test_a_file_that_lies_anywhere_is_asked_for_its_header_alone(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "a.gguf", vocabulary=32_000)
    size, asked = path.stat().st_size, 0

    with path.open("rb") as file:

        def read(count: int) -> bytes:
            nonlocal asked
            asked += count
            return file.read(count)

        container = parse_container(path, size, read)
    assert container.tensors == read_container(path).tensors
    assert asked < size / 2


def test_a_large_vocabulary_is_read_quickly(wide_model: Path) -> None:
    """GGUFReader takes seconds for it."""
    began = time.process_time()
    assert read_header(wide_model).vocabulary == 150_000
    assert time.process_time() - began < 0.3


# What must be refused.


def test_a_missing_file_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"there is no file .*nothing\.gguf"):
        read_header(tmp_path / "nothing.gguf")


def test_a_directory_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="Is a directory"):
        read_header(tmp_path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS pointer"),
        (b"\n<!DOCTYPE html><html>Sign in</html>", "is a web page"),
        (b'{"error":"Repository not found"}', "server's error message"),
        (b"GGML\x01\x02\x03\x04", "begins with b'GGML'"),
        (b"GG", "begins with b'GG'"),
    ],
)
def test_what_is_no_gguf_file_is_recognised(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelCorrupt, match=says) as refused:
        read_header(path)
    assert "Delete it" in str(refused.value)


def test_a_truncated_file_is_refused_with_both_sizes(model: Path) -> None:
    whole = model.stat().st_size
    with model.open("r+b") as file:
        file.truncate(whole - 64)
    with pytest.raises(ModelCorrupt) as refused:
        read_header(model)
    message = str(refused.value)
    assert f"is {whole - 64:,} bytes, but its tensors need" in message
    assert "the download was cut" in message


def test_no_changed_byte_of_a_header_causes_anything_but_a_verdict(
    model: Path, tmp_path: Path
) -> None:
    """A header with one bit flipped is read or refused, never an unforeseen error."""
    content = bytearray(model.read_bytes())
    flipped = tmp_path / "flipped.gguf"
    verdicts: list[str] = []
    for position in range(0, 18_000, 37):
        content[position] ^= 1 << position % 8
        flipped.write_bytes(content)
        content[position] ^= 1 << position % 8
        try:
            read_header(flipped)
        except (ModelCorrupt, ModelUnsupported) as error:
            verdicts.append(str(error))
    assert len(verdicts) > 50
    assert all(verdict.isprintable() for verdict in verdicts)


Patch = Callable[[bytearray], None]


def _write_at(position: int, shape: str, value: int) -> Patch:
    return lambda content: struct.pack_into(shape, content, position, value)


@pytest.mark.parametrize(
    ("patch", "error", "says"),
    [
        (_write_at(4, "<I", 1), ModelUnsupported, "version 1, which llama.cpp no longer reads"),
        (_write_at(4, "<I", 4), ModelUnsupported, "GGUF version 4"),
        (_write_at(4, ">I", 3), ModelUnsupported, "big-endian"),
        (_write_at(8, "<Q", 2**60), ModelCorrupt, "tensors, more than it has room for"),
        (_write_at(16, "<Q", 2**60), ModelCorrupt, "metadata keys, more than it has room for"),
        (_write_at(24, "<Q", 2**63), ModelCorrupt, "ends, or goes wrong, inside its header"),
        (_write_at(24, "<Q", 0), ModelCorrupt, "or an empty one"),
    ],
)
def test_impossible_figures_at_the_start_are_refused(
    model: Path, patch: Patch, error: type[Exception], says: str
) -> None:
    content = bytearray(model.read_bytes())
    patch(content)
    model.write_bytes(content)
    with pytest.raises(error, match=says):
        read_header(model)


def _at(content: bytes, name: str) -> int:
    """The position right behind a key or a tensor's name."""
    return content.index(struct.pack("<Q", len(name)) + name.encode()) + 8 + len(name)


@pytest.mark.parametrize(
    ("name", "offset", "shape", "value", "error", "says"),
    [
        # behind a tensor's name: dimensions, lengths, type, offset
        ("output_norm.weight", 0, "<I", 5, ModelCorrupt, "with 5 dimensions"),
        ("output_norm.weight", 4, "<Q", 2**62, ModelCorrupt, "its tensors need|where .* is due"),
        ("output_norm.weight", 12, "<I", 4, ModelUnsupported, "of type 4"),
        ("output_norm.weight", 12, "<I", 14, ModelCorrupt, "impossible|with the shape"),
        ("output_norm.weight", 16, "<Q", 96, ModelCorrupt, "at 96 where"),
        # behind a metadata key: type, value
        ("llama.block_count", 0, "<I", 77, ModelCorrupt, "of an unknown type, 77"),
        ("llama.block_count", 4, "<I", 0, ModelCorrupt, "impossible value for llama.block_count"),
        ("llama.block_count", 4, "<I", 10**9, ModelCorrupt, "impossible value"),
        ("llama.block_count", 0, "<I", 6, ModelCorrupt, "must be a whole number"),
        ("tokenizer.ggml.tokens", 4, "<I", 9, ModelCorrupt, "list .* of an unknown type, 9"),
        ("tokenizer.ggml.tokens", 8, "<Q", 2**40, ModelCorrupt, "items in the metadata"),
        ("tokenizer.ggml.tokens", 8, "<Q", 2**24, ModelCorrupt, "inside its header"),
        ("tokenizer.ggml.token_type", 8, "<Q", 2**24, ModelCorrupt, "inside its header"),
    ],
)
def test_impossible_figures_inside_are_refused(
    model: Path,
    name: str,
    offset: int,
    shape: str,
    value: int,
    error: type[Exception],
    says: str,
) -> None:
    content = bytearray(model.read_bytes())
    struct.pack_into(shape, content, _at(bytes(content), name) + offset, value)
    model.write_bytes(content)
    with pytest.raises(error, match=says):
        read_header(model)


def test_a_key_given_twice_is_refused(model: Path) -> None:
    content = model.read_bytes()
    model.write_bytes(content.replace(b"llama.rope.freq_base", b"llama.context_length"))
    with pytest.raises(ModelCorrupt, match=r"'llama\.context_length' twice"):
        read_header(model)
