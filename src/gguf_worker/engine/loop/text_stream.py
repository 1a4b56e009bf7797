"""Turns the bytes of sampled tokens into text that may be sent: whole characters, and nothing of a stop string.

Knows no token and no request. Both parts have the feed/flush shape; what they hold back comes out with a
later `feed`, or with `flush` at the end.
"""

from __future__ import annotations

import codecs


class TextStream:
    """The text of one answer; how its bytes are cut into `feed`s makes no difference to it.

    A character cut by a token border waits for its other bytes. Text that may be the beginning of a stop
    string waits until it is certain. After a stop string was seen, `stopped_by` is it, the text before it has
    been given out, and nothing comes any more.
    """

    def __init__(self, stop: tuple[str, ...] = ()) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
        self._stop = stop
        self._beginnings = {text[:n] for text in stop for n in range(1, len(text))}
        self._longest = max((len(text) - 1 for text in stop), default=0)
        self._held = ""
        self.stopped_by: str | None = None

    def feed(self, piece: bytes) -> str:
        """The text that `piece` makes certain."""
        text = self._decode(piece)
        return self._release(text) if self._stop else text

    def flush(self) -> str:
        """What was held back, at the end of the answer; an unfinished character becomes U+FFFD."""
        text = self._release(self._decode(b"", True))
        text, self._held = text + self._held, ""
        return text

    def _release(self, text: str) -> str:
        if self.stopped_by is not None:
            return ""
        text = self._held + text
        found = [(at + len(stop), at, stop) for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            _, start, self.stopped_by = min(found)  # the stop string that was complete first
            self._held = ""
            return text[:start]
        keep = self._suspicious(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def _suspicious(self, text: str) -> int:
        """Length of the longest end of `text` that is the beginning of a stop string."""
        for length in range(min(self._longest, len(text)), 0, -1):
            if text[-length:] in self._beginnings:
                return length
        return 0
