"""The bytes of a GGUF header, read from a file's start and bounded by its real size.

No allocation has a size that the file merely claims. The meaning of the bytes is not known here.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable
from pathlib import Path

from gguf_worker.errors import ModelCorrupt

MAX_HEADER_BYTES = 1 << 28
"""Far above any real header (a vocabulary of 256k tokens takes about 16 MB)."""

AGAIN = "Delete it and let the worker fetch it again, or copy it here once more"
"""The advice for a damaged file: a message's last sentence, without its full stop."""

_READ_BYTES = 1 << 20
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


class HeaderBytes:
    """Reads a file from its start, only as far as needed.

    `read(count)` returns its next `count` bytes, or fewer at its end. All methods raise
    ModelCorrupt for bytes beyond the file's end, or far beyond any real header.
    """

    def __init__(self, path: Path, size: int, read: Callable[[int], bytes]) -> None:
        self._path = path
        self._read = read
        self.size = size
        self.position = 0
        self.buffer = bytearray()

    def peek(self, count: int) -> bytes:
        """Return the file's first `count` bytes, or all of a shorter file; keeps the position."""
        self.reach(min(count, self.size))
        return bytes(self.buffer[:count])

    def u32(self) -> int:
        """Read an unsigned number of 32 bits."""
        value: int = self.scalar(_U32)
        return value

    def u64(self) -> int:
        """Read an unsigned number of 64 bits."""
        value: int = self.scalar(_U64)
        return value

    def scalar(self, shape: struct.Struct) -> int:
        """Read one number, or flag, of the given shape."""
        start = self.position
        self.skip(shape.size)
        value: int = shape.unpack_from(self.buffer, start)[0]
        return value

    def scalars(self, shape: struct.Struct, count: int) -> tuple[int, ...]:
        """Read `count` numbers of one shape."""
        start = self.position
        self.skip(shape.size * count)
        return tuple(
            value for (value,) in shape.iter_unpack(self.buffer[start : start + shape.size * count])
        )

    def text(self) -> str:
        """Read a string: its length, then its bytes."""
        start = self.position
        self.skip(self.u64())
        return text_at(self.buffer, start)

    def strings(self, count: int) -> array[int]:
        """Skip `count` strings and return the positions in the buffer at which they begin."""
        starts = array("Q")
        append = starts.append
        unpack = _U64.unpack_from
        buffer, position, have = self.buffer, self.position, len(self.buffer)
        for _ in range(count):
            if position + 8 > have:
                self.reach(position + 8)
                have = len(buffer)
            append(position)
            position += 8 + unpack(buffer, position)[0]
        self.reach(position)
        self.position = position
        return starts

    def skip(self, count: int) -> None:
        """Move on by `count` bytes, which the file must have."""
        self.reach(self.position + count)
        self.position += count

    def reach(self, end: int) -> None:
        """Read on until the buffer holds the first `end` bytes, if the file has as many."""
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
            raise ModelCorrupt(f"{self._path} shrank while it was read. {AGAIN}.", permanent=False)


def text_at(buffer: bytearray, start: int) -> str:
    """Return the string at `start`: its length comes first, then its bytes."""
    (length,) = _U64.unpack_from(buffer, start)
    return buffer[start + 8 : start + 8 + length].decode("utf-8", errors="replace")
