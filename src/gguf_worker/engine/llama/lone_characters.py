"""Cuts a text before characters that no token contains, for SentencePiece's tokenisers.

llama.cpp reads such a character as its bytes, in time that grows with the tokens before it: 100,000
of them take 22 seconds. SentencePiece joins characters only to what is a token, so nothing is
joined across a character that none contains, and what lies before it can be read by itself. Where
the vocabulary wants a space before a text, a piece that begins so has the space's tokens too many.

Pure: knows the spellings only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

_CHARACTERS = 1024
"""Characters of a piece, from which on it ends where it can: some two milliseconds."""
_WINDOW = 64 * 1024
"""Characters that are searched at once: the search holds Python's lock."""
_BEFORE = 256
"""Characters, beside those of the longest special token, among which one is looked for."""
_WHITE = " \t\n\v\f\r"
_SPACE = "\u2581"
"""How SentencePiece spells a space."""
_BYTE = "<0x0123456789ABCDEF>"
"""The characters of the tokens that stand for bytes."""


class LoneCharacters:
    """The characters in no token, given how all tokens are spelled, and the special ones."""

    def __init__(self, spelled: Iterable[bytes], specials: Iterable[str]) -> None:
        self._specials = tuple(filter(None, specials))
        self._window = _BEFORE + max(map(len, self._specials), default=0)
        known = {*_WHITE, _SPACE, *_BYTE}
        known.update(*self._specials, *(each.decode("utf-8", "ignore") for each in spelled))
        self._pattern = re.compile("[^" + "".join(map(re.escape, sorted(known))) + "]")

    def pieces(self, text: str) -> Iterator[str]:
        """Yield the pieces of a text; all but the first begin with a lone character."""
        start, at = 0, _CHARACTERS
        while at < len(text):
            found = self._pattern.search(text, at, at + _WINDOW)
            if found is None:
                at += _WINDOW
            elif self._follows_special(text[max(0, found.start() - self._window) : found.start()]):
                at = found.end()
            else:
                yield text[start : found.start()]
                start, at = found.start(), found.start() + _CHARACTERS
        yield text[start:]

    def _follows_special(self, before: str) -> bool:
        """Tell whether a special token may end `before`, or white space that it takes away: what
        follows it may have a space put before it."""
        for end in range(len(before), 0, -1):
            if before.endswith(self._specials, 0, end):
                return True
            if before[end - 1] not in _WHITE:
                return False
        return True
