"""Cuts a text into pieces that llama.cpp can read one by one: together they have its tokens.

llama.cpp looks for spelled special tokens first, the longest ones before shorter ones, and reads
what lies between them by itself. So a text can be cut before a special token, if that is certain
to be one: whether an occurrence counts depends only on the occurrences that overlap it. The time
that llama.cpp takes to find special tokens grows with the square of their number in a text.

Most tokenisers of byte pairs split a text into words first, and no word goes on from a line that
ends with a letter to one that begins with a letter. So a text can be cut there too.

Pure: knows the spellings only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

_MARKS = 128
"""Special tokens of a piece, from which on it ends where it can."""
_CHARACTERS = 16 * 1024
"""Characters of a piece, from which on it ends where it can."""
_WINDOW = 64 * 1024
"""Characters that are searched at once: the search holds Python's lock."""
_WHITE = frozenset(" \t\n\v\f\r")
_LINE = re.compile(r"\n(?<=[A-Za-z]\n)(?=[A-Za-z])")


@dataclass(frozen=True, slots=True)
class Special:
    """A special token: its spelling, and whether it takes away the white space before or after
    it."""

    text: str
    strips_before: bool = False
    strips_after: bool = False


class SpecialMarks:
    """The special tokens that a text may spell. `lines`: words end with lines."""

    def __init__(self, specials: Iterable[Special], *, lines: bool = False) -> None:
        known = {each.text: each for each in specials}
        strips = any(each.strips_before or each.strips_after for each in known.values())
        self._lines = lines and not strips and not any("\n" in text[:-1] for text in known)
        self._bytes = {text: len(text.encode()) for text in known}
        self._longest = max(map(len, known), default=0)
        self._overlapping = _overlapping(known)
        self._barred = _barred(known)
        self._pattern = _pattern(known)

    def pieces(self, text: str) -> Iterator[str]:
        """Yield the pieces of a text, none of them empty."""
        start = 0
        for end in self._ends(text):
            if self._lines:
                while end - start > 2 * _CHARACTERS:
                    line = _line(text, start + _CHARACTERS, end)
                    if line is None:
                        break
                    yield text[start:line]
                    start = line
            if end > start:
                yield text[start:end]
            start = end

    def _ends(self, text: str) -> Iterator[int]:
        """Yield where pieces end for a special token, and the end of the text."""
        start = marks = 0
        for at, certain in self._marks(text, self._pattern):
            full = marks >= _MARKS or at - start >= _CHARACTERS
            if certain and full:
                yield at
                start, marks = at, 0
            marks += 1
        yield len(text)

    def _marks(self, text: str, pattern: re.Pattern[str] | None) -> Iterator[tuple[int, bool]]:
        """Yield where occurrences of special tokens begin that overlap none before them, and
        whether one is certain to be a token and may begin a piece."""
        at = 0
        while pattern is not None and at < len(text):
            window = at + _WINDOW + self._longest
            found = pattern.search(text, at, window)
            if found is None:
                at += _WINDOW
                continue
            begin = found.start()
            end, certain = self._cluster(text, pattern, begin)
            yield begin, certain
            at = end

    def _cluster(self, text: str, pattern: re.Pattern[str], begin: int) -> tuple[int, bool]:
        """Return the end of the occurrences that overlap the one at `begin`, or one another, and
        whether the longest at `begin` is a token for certain and may begin a piece."""
        first = pattern.match(text, begin)
        assert first is not None
        mark, end = first[0], first.end()
        certain = mark not in self._barred
        if mark not in self._overlapping:
            return end, certain
        at = begin + 1
        while at < end:
            other = pattern.match(text, at)
            if other is not None:
                # The longer of two goes first; which of two of one length is not known.
                shorter = self._bytes[other[0]] < self._bytes[mark]
                certain = certain and (shorter or other[0] == mark)
                end = max(end, other.end())
            at += 1
        return end, certain


def _line(text: str, start: int, end: int) -> int | None:
    """Return where the first line behind `start` begins at which a text may be cut; None if there
    is none before `end`."""
    for at in range(start, end, _WINDOW):
        found = _LINE.search(text, at, min(end, at + _WINDOW + 2))
        if found is not None:
            return found.end()
    return None


def _overlapping(known: Mapping[str, Special]) -> frozenset[str]:
    """Return the spellings of which an end is the beginning of another, or of themselves."""
    beginnings = {text[:length] for text in known for length in range(1, len(text) + 1)}
    return frozenset(
        text for text in known if any(text[at:] in beginnings for at in range(1, len(text)))
    )


def _barred(known: Mapping[str, Special]) -> frozenset[str]:
    """Return the spellings before which a text must not be cut, since white space is taken away."""
    before = any(each.strips_before for each in known.values())
    after = any(each.strips_after for each in known.values())
    return frozenset(
        text
        for text, each in known.items()
        if each.strips_before or ((before or after) and (text[0] in _WHITE or text[-1] in _WHITE))
    )


def _pattern(known: Mapping[str, Special]) -> re.Pattern[str] | None:
    """Return an expression for the longest spelling at a position; None where there is none, or
    where they are too many or too strange for one."""
    if not known or "" in known:
        return None
    try:
        return re.compile(_tree(sorted(known)))
    except (re.error, RecursionError, OverflowError):
        return None


def _tree(words: Sequence[str]) -> str:
    """Return an expression for the longest of `words`, which are sorted; it has each common
    beginning once."""
    by_first: dict[str, list[str]] = {}
    for word in words:
        by_first.setdefault(word[0], []).append(word)
    branches = []
    for group in by_first.values():
        first, last = group[0], group[-1]
        length = next((at for at, each in enumerate(first) if last[at] != each), len(first))
        begin = first[:length]
        ends = [word[len(begin) :] for word in group if word != begin]
        branch = re.escape(begin)
        if ends:
            branch += f"(?:{_tree(ends)})" + ("?" if len(ends) < len(group) else "")
        branches.append(branch)
    return "|".join(branches)
