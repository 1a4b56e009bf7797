"""Turns the bytes of drawn tokens into text that may be sent: whole characters, and nothing of a
stop string.

Knows no token and no request.
"""

from __future__ import annotations

import codecs


class TextStream:
    """The text of one answer; it does not depend on how its bytes are cut into `feed`s.

    The first bytes of a character are held back until the others have come, and text that may begin
    a stop string until that is decided, or until `flush`. Once a stop string is complete, it is in
    `stopped_by`, the text before it has been returned, and further text is dropped. `inclusive`:
    the stop string is part of the text.
    """

    def __init__(self, stop: tuple[str, ...] = (), *, inclusive: bool = False) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._decode = self._decoder.decode
        self._stop = stop
        self._inclusive = inclusive
        self._beginnings = {text[:n] for text in stop for n in range(1, len(text))}
        self._longest = max((len(text) - 1 for text in stop), default=0)
        self._held = ""
        self.stopped_by: str | None = None

    def feed(self, piece: bytes) -> str:
        """Add the bytes of a token, and return the text that may be sent now."""
        text = self._decode(piece)
        return self._release(text) if self._stop else text

    def skip(self, piece: bytes) -> str:
        """Add the bytes of a token in which no stop string is looked for."""
        text, self._held = self._held + self._decode(piece), ""
        return text

    @property
    def held_bytes(self) -> int:
        """The bytes of what is held back."""
        return len(self._held.encode()) + len(self._decoder.getstate()[0])

    def flush(self) -> str:
        """Return the text held back, at the end of the answer; an unfinished character becomes
        U+FFFD."""
        text = self._release(self._decode(b"", True))
        text, self._held = text + self._held, ""
        return text

    def _release(self, text: str) -> str:
        if self.stopped_by is not None:
            return ""
        text = self._held + text
        found = [(at + len(stop), at, stop) for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            end, start, self.stopped_by = min(found)  # the stop string that was complete first
            self._held = ""
            return text[: end if self._inclusive else start]
        keep = self._uncertain(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def _uncertain(self, text: str) -> int:
        """Return the length of the longest end of `text` that may begin a stop string."""
        for length in range(min(self._longest, len(text)), 0, -1):
            if text[-length:] in self._beginnings:
                return length
        return 0
