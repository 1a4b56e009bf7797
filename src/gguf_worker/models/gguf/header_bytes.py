"""The bytes of a GGUF header, read from a file's start and bounded by its real size.

Nothing is allocated by a number that the file only claims. What the bytes mean is not known here.
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
"""The advice for a damaged file, as the end of a message without its stop."""

_READ_BYTES = 1 << 20
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


class HeaderBytes:
    """A file from its start, read as far as it is asked for, within what is really there.

    `read(count)` gives its next bytes, `count` of them where it has as many. What is asked for
    beyond the file's end, or far beyond any real header, is a ModelCorrupt.
    """

    def __init__(self, path: Path, size: int, read: Callable[[int], bytes]) -> None:
        self._path = path
        self._read = read
        self.size = size
        self.position = 0
        self.buffer = bytearray()

    def peek(self, count: int) -> bytes:
        """Return the file's first bytes, and stay where it is."""
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
        """Read one number, or flag, of that shape."""
        start = self.position
        self.skip(shape.size)
        value: int = shape.unpack_from(self.buffer, start)[0]
        return value

    def scalars(self, shape: struct.Struct, count: int) -> tuple[int, ...]:
        """Read so many numbers of one shape."""
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
        """Skip that many strings and return where in the buffer each of them begins."""
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
        """Go on by so many bytes, which have to be there."""
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


def text_at(buffer: bytearray, start: int) -> str:
    """Return the string that begins at `start`, with its length."""
    (length,) = _U64.unpack_from(buffer, start)
    return buffer[start + 8 : start + 8 + length].decode("utf-8", errors="replace")
