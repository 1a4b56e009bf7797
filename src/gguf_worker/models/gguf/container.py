"""The GGUF container: metadata and the list of tensors, bounded by what the file really holds.

Every length, count and type is checked before it is used; nothing is allocated by a number that
the file only claims. What the metadata means is not known here.
"""

from __future__ import annotations

import math
import struct
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from gguf_worker.errors import ModelCorrupt, ModelUnavailable, ModelUnsupported
from gguf_worker.models.gguf.architectures import Value

MAX_HEADER_BYTES = 1 << 28
"""Far above any real header (a vocabulary of 256k tokens takes about 16 MB)."""

AGAIN = "Delete it and let the worker fetch it again, or copy it here once more"

_MAX_ITEMS = 1 << 24
_MAX_TENSOR_NAME = 63
_KEPT_ITEMS = 4096
_READ_BYTES = 1 << 20

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
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

# ggml_type: name, elements in a block, bytes of a block. As in the pinned llama.cpp's ggml.h and
# ggml-common.h; missing numbers were removed from the format.
TENSOR_TYPES: Mapping[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 36),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
    42: ("Q2_0", 64, 18),
}


@dataclass(frozen=True, slots=True)
class Tensor:
    name: str
    kind: int
    """A key of TENSOR_TYPES."""
    elements: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Container:
    """One file's metadata and tensors, all of them known to lie inside it."""

    path: Path
    version: int
    size: int
    texts: Mapping[str, str]
    values: Mapping[str, Value]
    """Numbers, flags, and lists of them up to a few thousand items."""
    tensors: tuple[Tensor, ...]
    tokens: array[int]
    """Where each text of the vocabulary begins in `buffer`."""
    buffer: bytearray

    def token(self, number: int) -> str:
        return _text(self.buffer, self.tokens[number])


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
        raise ModelUnavailable(
            f"{path} cannot be read: {exc.strerror or exc}. MODEL must name a GGUF file that this "
            "process may read."
        ) from exc


def parse_container(path: Path, size: int, read: Callable[[int], bytes]) -> Container:
    """Parse a file of `size` bytes that lies anywhere, as far as its header goes; `path` names it in messages.

    `read(count)` gives its next bytes, `count` of them where it has as many. Raises as read_container
    does, and what `read` does.
    """
    return _Parser(path, _Bytes(path, size, read)).container()


class _Bytes:
    """A file from its start, read as far as it is asked for, within what is really there."""

    def __init__(self, path: Path, size: int, read: Callable[[int], bytes]) -> None:
        self._path = path
        self._read = read
        self.size = size
        self.position = 0
        self.buffer = bytearray()

    def peek(self, count: int) -> bytes:
        self.reach(min(count, self.size))
        return bytes(self.buffer[:count])

    def u32(self) -> int:
        value: int = self.scalar(_U32)
        return value

    def u64(self) -> int:
        value: int = self.scalar(_U64)
        return value

    def scalar(self, shape: struct.Struct) -> int:
        start = self.position
        self.skip(shape.size)
        value: int = shape.unpack_from(self.buffer, start)[0]
        return value

    def scalars(self, shape: struct.Struct, count: int) -> tuple[int, ...]:
        start = self.position
        self.skip(shape.size * count)
        return tuple(
            value for (value,) in shape.iter_unpack(self.buffer[start : start + shape.size * count])
        )

    def text(self) -> str:
        start = self.position
        self.skip(self.u64())
        return _text(self.buffer, start)

    def strings(self, count: int) -> array[int]:
        """Skip that many strings; where each of them begins."""
        starts = array("Q")
        note = starts.append
        unpack = _U64.unpack_from
        buffer, position, have = self.buffer, self.position, len(self.buffer)
        for _ in range(count):
            if position + 8 > have:
                self.reach(position + 8)
                have = len(buffer)
            note(position)
            position += 8 + unpack(buffer, position)[0]
        self.reach(position)
        self.position = position
        return starts

    def skip(self, count: int) -> None:
        self.reach(self.position + count)
        self.position += count

    def reach(self, end: int) -> None:
        """Have the first `end` bytes in the buffer; no more is held than the file really has."""
        missing = end - len(self.buffer)
        if missing <= 0:
            return
        if end > self.size:
            raise ModelCorrupt(
                f"{self._path} is {self.size:,} bytes and ends, or goes wrong, inside its header: "
                f"the download was cut or the file altered. {AGAIN}."
            )
        if end > MAX_HEADER_BYTES:
            raise ModelCorrupt(
                f"{self._path} claims a header of more than {MAX_HEADER_BYTES:,} bytes, which no "
                f"model has: the file was altered. {AGAIN}."
            )
        self.buffer += self._read(max(missing, _READ_BYTES))
        if len(self.buffer) < end:
            raise ModelCorrupt(f"{self._path} shrank while it was read. {AGAIN}.")


class _Parser:
    """One pass over one file: metadata, then the tensors' descriptions."""

    def __init__(self, path: Path, source: _Bytes) -> None:
        self._path = path
        self._bytes = source
        self._values: dict[str, Value] = {}
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
        # A key takes thirteen bytes at least, so a count beyond that is a lie.
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
            # One behind the other: llama.cpp takes no other order.
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
        """A tensor's description, and where it claims its bytes to be."""
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
    """A stranger's text, fit for a message."""
    return repr(text if len(text) <= 64 else text[:61] + "...")


def _what_it_is(start: bytes) -> str:
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


def _text(buffer: bytearray, start: int) -> str:
    (length,) = _U64.unpack_from(buffer, start)
    return buffer[start + 8 : start + 8 + length].decode("utf-8", errors="replace")


def _aligned(position: int, alignment: int) -> int:
    return (position + alignment - 1) // alignment * alignment
