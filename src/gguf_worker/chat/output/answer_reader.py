"""Reads a text while it is still arriving.

Formats are read by generators that yield when they need more text. So the code of a format reads as
if the whole text were there, and cuts in the text make no difference.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Generator
from typing import TypeVar

T = TypeVar("T")
Incremental = Generator[None, None, T]
"""A generator that reads a T; it yields whenever it has read all the text that has arrived."""

Sink = Callable[[str], None]

MAX_TRIED = 256 * 1024
"""Characters that a trial may read before it succeeds."""

_SPACE = re.compile(r"\s*")


class Malformed(Exception):
    """The text does not match the format that is being read, or ends too early."""


class Marks:
    """Marks that a text is searched for, none of which is a part of another."""

    def __init__(self, words: Collection[str]) -> None:
        assert all(one not in other for one in words for other in words if one != other)
        self._search = re.compile("|".join(map(re.escape, words)) or r"(?!)").search
        self._beginnings = {word[:end] for word in words for end in range(1, len(word))}
        self._firsts = frozenset(word[0] for word in words)
        self._longest = max(map(len, words), default=0)

    def find(self, text: str, start: int) -> re.Match[str] | None:
        """Return the first whole mark in `text` from `start` on."""
        return self._search(text, start)

    def may_begin(self, text: str) -> bool:
        """Tell by a quick check if a mark may begin in `text`; nearly always False."""
        return not self._firsts.isdisjoint(text)

    def unsure(self, text: str, start: int) -> int:
        """Return the offset from which the end of `text` may be the beginning of a mark.

        It is the length of `text` if no mark may have begun.
        """
        first = max(start, len(text) - self._longest + 1)
        if self._firsts.isdisjoint(text[first:]):  # nearly always, and this runs for each delta
            return len(text)
        for at in range(first, len(text)):
            if text[at:] in self._beginnings:
                return at
        return len(text)


class AnswerReader:
    """The text that has arrived and is not read yet: its owner feeds it, one generator reads it."""

    def __init__(self) -> None:
        self._text = ""
        self._at = 0
        self._ended = False
        self.cut = False
        """The text has ended, and its writer would have gone on."""
        self._tried: list[str] | None = None
        self._left = 0
        self._until: tuple[Marks, Sink] | None = None

    def feed(self, text: str) -> bool:
        """Add text that has arrived.

        Returns False if it went to the sink at once, so that nothing waits to be read.
        """
        if self._until is not None and self._at == len(self._text):
            marks, sink = self._until
            if not marks.may_begin(text):
                sink(text)
                return False
        self._text = self._text[self._at :] + text
        self._at = 0
        return True

    def end(self, *, cut: bool = False) -> None:
        """Note that no more text will come; `cut`: although its writer would have gone on."""
        self._ended, self.cut = True, cut

    def begin_trial(self, mark: str = "", limit: int = MAX_TRIED) -> None:
        """Remember what is read from here on, after `mark`, until `end_trial`.

        A trial that reads more than `limit` characters has failed: it raises Malformed.
        """
        self._tried, self._left = [mark], limit

    def end_trial(self) -> None:
        """Forget what the trial has read: it has succeeded, or has been given up."""
        self._tried = None

    @property
    def tried(self) -> str:
        """All that the trial has read; "" once it has ended."""
        return "".join(self._tried or ())

    def peek(self) -> Incremental[str]:
        """Return the next character, which stays unread; "" at the end."""
        while self._at == len(self._text):
            if self._ended:
                return ""
            yield
        return self._text[self._at]

    def need(self) -> Incremental[str]:
        """Return the next character, which stays unread; raises Malformed at the end."""
        char = yield from self.peek()
        if not char:
            raise Malformed
        return char

    def take(self, count: int = 1) -> str:
        """Read `count` characters, all of which have arrived."""
        if self._tried is not None and count > self._left:
            self._read(max(0, self._left))
            raise Malformed
        return self._read(count)

    def match(self, pattern: re.Pattern[str]) -> str:
        """Read the arrived text that matches `pattern`, one kind of character repeated."""
        found = pattern.match(self._text, self._at)
        assert found is not None
        return self.take(found.end() - self._at)

    def accept(self, word: str) -> Incremental[bool]:
        """Read `word` if it comes next. Of a text that was cut in it, its beginning is dropped."""
        while True:
            have = self._text[self._at : self._at + len(word)]
            if have == word:
                self.take(len(word))
                return True
            if not word.startswith(have):
                return False
            if self._ended:
                self._at += len(have) if self.cut else 0
                return False
            yield

    def expect(self, word: str) -> Incremental[None]:
        """Read `word`; raises Malformed if another text comes."""
        if not (yield from self.accept(word)):
            raise Malformed

    def skip_space(self) -> Incremental[None]:
        """Read whitespace, if there is any."""
        yield from self.run(_SPACE)

    def run(self, pattern: re.Pattern[str]) -> Incremental[str]:
        """Read all that matches `pattern`, one kind of character repeated, however it arrives."""
        parts: list[str] = []
        while (yield from self.peek()) and (part := self.match(pattern)):
            parts.append(part)
        return "".join(parts)

    def until(self, marks: Marks, sink: Sink) -> Incremental[str | None]:
        """Read up to a mark, and return the mark, also read; the text before it goes to `sink`.

        Returns None if the text ends before any mark; in a trial it raises Malformed then. Of a
        text that was cut in what may be a mark, this beginning is dropped.
        """
        while True:
            found = marks.find(self._text, self._at)
            if found is not None:
                sink(self.take(found.start() - self._at))
                return self._read(len(found.group()))
            end = len(self._text)
            whole = self._ended and not self.cut
            sure = end if whole else marks.unsure(self._text, self._at)
            if sure > self._at:
                sink(self.take(sure - self._at))
            if self._ended:
                self._at = end
                if self._tried is not None:
                    raise Malformed
                return None
            self._until = None if self._tried is not None else (marks, sink)
            yield
            self._until = None

    def before(self, mark: str) -> Incremental[str]:
        """Return the text up to `mark`, and read the mark too; raises Malformed without one."""
        parts: list[str] = []
        if (yield from self.until(Marks((mark,)), parts.append)) is None:
            raise Malformed
        return "".join(parts)

    def rest(self) -> Incremental[str]:
        """Return all that comes until the end."""
        parts: list[str] = []
        while (yield from self.peek()):
            parts.append(self.take(len(self._text) - self._at))
        return "".join(parts)

    def _read(self, count: int) -> str:
        text = self._text[self._at : self._at + count]
        self._at += count
        if self._tried is not None:
            self._tried.append(text)
            self._left -= count
        return text
