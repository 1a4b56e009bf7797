"""Turns the bytes of drawn tokens into text that may be sent: whole characters, and nothing of a
stop string.

Knows no token and no request.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from functools import lru_cache

from gguf_worker.generation import Outline, Phase

_ALL_CONTENT = Outline((Phase("content"),))


class TextStream:
    """The text of one answer; it does not depend on how its bytes are cut into `feed`s.

    The first bytes of a character are held back until the others have come, and text that may begin
    a stop string or a mark of the `outline` until that is decided, or until `flush`. Once a stop
    string is complete, it is in `stopped_by`, the text before it has been returned, and further
    text is dropped.

    Stop strings are looked for in content only, in each stretch between two marks by itself, and
    not in the white space after a mark, which belongs to the notation. `inclusive`: the stop string
    is part of the text.
    """

    def __init__(
        self,
        stop: tuple[str, ...] = (),
        outline: Outline | None = None,
        *,
        inclusive: bool = False,
    ) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._decode = self._decoder.decode
        self._stops = _Words(stop)
        self._inclusive = inclusive
        self._outline = outline or _ALL_CONTENT
        self._phase = self._outline.phases[self._outline.begin]
        self._blank = True  # nothing but white space has come as content
        self._marks = _marks(self._phase, True)
        self._after_mark = False  # nothing but white space has come since a mark
        self._held = ""
        self.stopped_by: str | None = None
        # The characters without which a text can be sent at once; None: each has to be looked at.
        self._firsts = frozenset[str]() if not stop and outline is None else None

    @property
    def thinking(self) -> bool:
        """Tells whether a thought is open after the text so far."""
        return self._phase.kind == "thought"

    @property
    def undecided(self) -> int:
        """The number of characters that are held back."""
        return len(self._held)

    @property
    def within_character(self) -> bool:
        """Tells whether the last bytes of a character have not come."""
        return bool(self._decoder.getstate()[0])

    def feed(self, piece: bytes) -> str:
        """Add the bytes of a token, and return the text that may be sent now."""
        text = self._decode(piece)
        if self._firsts is not None and self._firsts.isdisjoint(text):  # nearly always
            return text
        text = self._release(text)
        self._firsts = self._sought()
        return text

    def skip(self, piece: bytes) -> str:
        """Add the bytes of a token in which no stop string is looked for."""
        text = self._release(self._decode(piece), stops=False)
        self._firsts = self._sought()
        return text

    @property
    def held_bytes(self) -> int:
        """The bytes of what is held back."""
        return len(self._held.encode()) + len(self._decoder.getstate()[0])

    def flush(self) -> str:
        """Return the text held back, at the end of the answer; an unfinished character becomes
        U+FFFD."""
        return self._release(self._decode(b"", True), ended=True)

    def _release(self, text: str, *, ended: bool = False, stops: bool = True) -> str:
        """Return the text that is certain by now, and hold back the rest; `stops`: stop strings are
        looked for."""
        if self.stopped_by is not None:
            return ""
        text, at = self._held + text, 0
        self._held = ""
        while True:
            found = self._marks.find(text, at)
            if found is not None:
                sure = found.start()
            else:
                sure = len(text) if ended else self._marks.unsure(text, at)
            keep = sure
            if self._phase.kind == "content":
                if self._blank and text[at:sure].strip():
                    self._blank = False
                    self._marks = _marks(self._phase, False)
                    continue  # there may be fewer marks from here on
                begin = self._begin_of_content(text, at, sure)
                stop = self._stops.first_whole(text, begin, sure) if stops else None
                if stop is not None:
                    start, self.stopped_by = stop
                    return text[: start + len(self.stopped_by) * self._inclusive]
                if stops and not ended:
                    keep = min(sure, self._stops.unsure(text, begin), self._overlaps(text, begin))
            if found is None:
                self._held = text[keep:]
                return text[:keep]
            self._begin_phase(found.group())
            at = found.end()

    def _sought(self) -> frozenset[str] | None:
        """Return the characters with which a mark or a stop string may begin from here on; None if
        more than that matters."""
        if self._held or self.stopped_by is not None:
            return None
        if self._phase.kind != "content":
            return self._marks.firsts
        if self._blank or self._after_mark:
            return None
        return self._marks.firsts | self._stops.firsts

    def _begin_of_content(self, text: str, at: int, end: int) -> int:
        """Return where content begins in `text[at:end]`: after a mark, behind its white space."""
        if not self._after_mark:
            return at
        body = text[at:end].lstrip()
        self._after_mark = not body
        return end - len(body)

    def _overlaps(self, text: str, begin: int) -> int:
        """Return where a stop string begins that may be part of a mark; else the text's length."""
        stop = self._stops.first_whole(text, begin, len(text))
        return len(text) if stop is None else stop[0]

    def _begin_phase(self, mark: str) -> None:
        """Begin the phase that `mark` leads to."""
        (number,) = {each.next for each in self._phase.marks if each.text == mark}
        self._phase = self._outline.phases[number]
        self._marks = _marks(self._phase, self._blank)
        self._after_mark = True


@lru_cache(maxsize=256)
def _marks(phase: Phase, blank: bool) -> _Words:
    """Return the marks that may end a phase; `blank`: while the content is only white space."""
    return _Words([mark.text for mark in phase.marks if blank or not mark.first])


class _Words:
    """Texts that are looked for in a text that still comes."""

    def __init__(self, words: Sequence[str]) -> None:
        self._words = words
        self._search = re.compile("|".join(map(re.escape, words))).search if words else None
        self._beginnings = {word[:end] for word in words for end in range(1, len(word))}
        self.firsts = frozenset(word[0] for word in words)
        self._longest = max(map(len, words), default=0)

    def find(self, text: str, start: int) -> re.Match[str] | None:
        """Return the first of the words in `text[start:]`."""
        return self._search(text, start) if self._search is not None else None

    def first_whole(self, text: str, start: int, end: int) -> tuple[int, str] | None:
        """Return the word that is complete first in `text[start:end]`, and where it begins; of
        those that are complete at the same place, the longest."""
        found = [
            (at + len(word), at, word)
            for word in self._words
            if (at := text.find(word, start, end)) >= 0
        ]
        return min(found)[1:] if found else None

    def unsure(self, text: str, start: int) -> int:
        """Return where the end of `text[start:]` begins that may become a word; else the text's
        length."""
        first = max(start, len(text) - self._longest + 1)
        if self.firsts.isdisjoint(text[first:]):  # nearly always, and this runs for each token
            return len(text)
        for at in range(first, len(text)):
            if text[at:] in self._beginnings:
                return at
        return len(text)
