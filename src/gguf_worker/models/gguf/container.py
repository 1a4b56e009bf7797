"""The GGUF container: metadata and the list of tensors, bounded by what the file really holds.

Every length, count and type is checked before it is used. The meaning of the metadata is not known
here.
"""

from __future__ import annotations

import math
import struct
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from gguf_worker.errors import (
    ModelCorrupt,
    ModelUnavailable,
    ModelUnsupported,
    is_lasting,
    start_error,
)
from gguf_worker.models.gguf.architectures import MetadataValue
from gguf_worker.models.gguf.header_bytes import AGAIN, HeaderBytes, text_at
from gguf_worker.models.gguf.tensor_types import TENSOR_TYPES

_MAX_ITEMS = 1 << 24
_MAX_TENSOR_NAME = 63
_KEPT_ITEMS = 4096

_STRING, _ARRAY = 8, 9
_SCALARS: Mapping[int, struct.Struct] = {
    number: struct.Struct("<" + code)
    for number, code in {
        0: "B",
        1: "b",
        2: "H",
        3: "h",
        4: "I",
        5: "i",
        6: "f",
        7: "?",
        10: "Q",
        11: "q",
        12: "d",
    }.items()
}


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor as the file describes it."""

    name: str
    kind: int
    """A key of TENSOR_TYPES."""
    elements: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Container:
    """One file's metadata and tensors, all of them verified to lie inside it."""

    path: Path
    version: int
    size: int
    texts: Mapping[str, str]
    values: Mapping[str, MetadataValue]
    """Numbers, flags, and lists of them up to a few thousand items."""
    tensors: tuple[Tensor, ...]
    tokens: array[int]
    """The positions in `buffer` at which the texts of the vocabulary begin."""
    buffer: bytearray

    def token(self, number: int) -> str:
        """Return the text of a token of the vocabulary."""
        return text_at(self.buffer, self.tokens[number])


def read_container(path: Path) -> Container:
    """Parse a file. Raises ModelUnavailable, ModelCorrupt, or ModelUnsupported for its version."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            return parse_container(path, size, file.read)
    except FileNotFoundError as exc:
        raise ModelUnavailable(
            f"there is no file {path}. Check MODEL, and that the volume it lies on is mounted."
        ) from exc
    except OSError as exc:
        if not is_lasting(exc):
            raise start_error(exc, f"reading {path}") from exc
        raise ModelUnavailable(
            f"{path} cannot be read: {exc.strerror or exc}. MODEL must name a GGUF file that this "
            "process may read."
        ) from exc


def parse_container(path: Path, size: int, read: Callable[[int], bytes]) -> Container:
    """Parse the header of a file of `size` bytes, wherever it is stored.

    `path` names it in messages. `read(count)` returns its next `count` bytes, or fewer at its end.
    Raises as read_container does, and what `read` does.
    """
    return _ContainerParser(path, HeaderBytes(path, size, read)).container()


class _ContainerParser:
    """One pass over one file: metadata, then the tensors' descriptions."""

    def __init__(self, path: Path, source: HeaderBytes) -> None:
        self._path = path
        self._bytes = source
        self._values: dict[str, MetadataValue] = {}
        self._texts: dict[str, str] = {}
        self._skipped: set[str] = set()
        self._tokens = array("Q")

    def container(self) -> Container:
        self._check_magic()
        version = self._check_version()
        tensor_count, key_count = self._bytes.u64(), self._bytes.u64()
        self._read_metadata(key_count)
        return Container(
            path=self._path,
            version=version,
            size=self._bytes.size,
            texts=self._texts,
            values=self._values,
            tensors=self._read_tensors(tensor_count),
            tokens=self._tokens,
            buffer=self._bytes.buffer,
        )

    def _check_magic(self) -> None:
        start = self._bytes.peek(64)
        if start[:4] != b"GGUF":
            self._corrupt(f"{_what_it_is(start)}, not a GGUF file")
        self._bytes.skip(4)

    def _check_version(self) -> int:
        version = self._bytes.u32()
        if version and version & 0xFFFF == 0:
            self._unsupported("is written for big-endian machines", "Name a little-endian file")
        if version < 2:
            self._unsupported(
                f"is GGUF version {version}, which llama.cpp no longer reads",
                "Convert the model again, or name a newer file",
            )
        if version > 3:
            self._unsupported(
                f"says GGUF version {version}, and this worker reads 2 and 3",
                "It was altered, or needs a newer release of this worker",
            )
        return version

    def _read_metadata(self, count: int) -> None:
        # Each key takes at least thirteen bytes, so a larger count cannot be true.
        if count > self._bytes.size // 13:
            self._corrupt(f"claims {count:,} metadata keys, more than it has room for")
        for _ in range(count):
            key = self._bytes.text()
            if not key or key in self._values or key in self._texts or key in self._skipped:
                self._corrupt(f"has the metadata key {shown(key)} twice, or an empty one")
            self._read_value(key, self._bytes.u32())

    def _read_value(self, key: str, kind: int) -> None:
        if kind in _SCALARS:
            self._values[key] = self._bytes.scalar(_SCALARS[kind])
        elif kind == _STRING:
            self._texts[key] = self._bytes.text()
        elif kind == _ARRAY:
            self._read_array(key)
        else:
            self._corrupt(f"has metadata {shown(key)} of an unknown type, {kind}")

    def _read_array(self, key: str) -> None:
        kind, count = self._bytes.u32(), self._bytes.u64()
        if count > _MAX_ITEMS:
            self._corrupt(f"claims {count:,} items in the metadata {shown(key)}")
        self._skipped.add(key)
        if kind == _STRING:
            starts = self._bytes.strings(count)
            if key == "tokenizer.ggml.tokens":
                self._tokens = starts
        elif kind not in _SCALARS:
            self._corrupt(f"has the metadata list {shown(key)} of an unknown type, {kind}")
        elif count <= _KEPT_ITEMS:
            self._values[key] = self._bytes.scalars(_SCALARS[kind], count)
        else:
            self._bytes.skip(_SCALARS[kind].size * count)

    def _read_tensors(self, count: int) -> tuple[Tensor, ...]:
        if count > self._bytes.size // 32:
            self._corrupt(f"claims {count:,} tensors, more than it has room for")
        tensors: list[Tensor] = []
        seen: set[str] = set()
        alignment = self._alignment()
        offset = end = 0
        for _ in range(count):
            tensor, at = self._read_tensor()
            if tensor.name in seen:
                self._corrupt(f"has the tensor {shown(tensor.name)} twice")
            # Each tensor follows the one before: llama.cpp takes no other order.
            if at != offset:
                self._corrupt(
                    f"has the tensor {shown(tensor.name)} at {at:,} where {offset:,} is due"
                )
            end = offset + tensor.bytes
            offset = _aligned(end, alignment)
            seen.add(tensor.name)
            tensors.append(tensor)
        if end:
            self._check_size(_aligned(self._bytes.position, alignment) + end)
        return tuple(tensors)

    def _read_tensor(self) -> tuple[Tensor, int]:
        """Read a tensor's description, and the offset at which its bytes are said to be."""
        name = self._bytes.text()
        if len(name.encode()) > _MAX_TENSOR_NAME:
            self._corrupt(f"has a tensor name of more than {_MAX_TENSOR_NAME} bytes")
        if (dimensions := self._bytes.u32()) > 4:
            self._corrupt(f"has the tensor {shown(name)} with {dimensions} dimensions")
        shape = [self._bytes.u64() for _ in range(dimensions)] or [1]
        kind = self._bytes.u32()
        if kind not in TENSOR_TYPES:
            self._unsupported(
                f"has the tensor {shown(name)} of type {kind}, which this worker's llama.cpp does "
                "not know",
                "Name another quantisation, or use a newer release of this worker",
            )
        label, block, block_bytes = TENSOR_TYPES[kind]
        elements = math.prod(shape)
        if shape[0] % block or elements >= 2**63:
            self._corrupt(f"has the {label} tensor {shown(name)} with the shape {shape}")
        tensor = Tensor(name, kind, elements, elements // block * block_bytes)
        return tensor, self._bytes.u64()

    def _alignment(self) -> int:
        value = self._values.get("general.alignment", 32)
        if not isinstance(value, int) or value <= 0 or value & (value - 1):
            self._corrupt(f"has an alignment of {value}, which is no power of two")
        return value

    def _check_size(self, needed: int) -> None:
        if needed > self._bytes.size:
            raise ModelCorrupt(
                f"{self._path} is {self._bytes.size:,} bytes, but its tensors need {needed:,}: the "
                f"download was cut. {AGAIN}."
            )

    def _corrupt(self, what: str) -> NoReturn:
        raise ModelCorrupt(f"{self._path} {what}. {AGAIN}.")

    def _unsupported(self, what: str, advice: str) -> NoReturn:
        raise ModelUnsupported(f"{self._path} {what}. {advice}.")


def shown(text: str) -> str:
    """Return an untrusted text, quoted and cut to be fit for a message."""
    return repr(text if len(text) <= 64 else text[:61] + "...")


def _what_it_is(start: bytes) -> str:
    """Return the kind of file that has this `start`, in words that follow its path in a message."""
    text = start.lstrip().lower()
    if not start:
        return "is empty"
    if text.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer (fetch the real file with `git lfs pull`)"
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "is a web page, such as a login or error page"
    if text.startswith(b'{"'):
        return "is a JSON text, such as a server's error message"
    return f"begins with {start[:4]!r}"


def _aligned(position: int, alignment: int) -> int:
    return (position + alignment - 1) // alignment * alignment
