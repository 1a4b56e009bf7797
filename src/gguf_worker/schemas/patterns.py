r"""Regular expressions of JavaScript and Python, rewritten for an engine of finite automata.

Such an engine knows no look-around, no `\b` and no back-reference. Leaving these out allows more
texts, never fewer, so that what is left can still be enforced.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

MOST_CHARACTERS = 8192

_ANYTHING = "(?s:.*)"
_LETTER = "[A-Za-z0-9_'+-]"
_EQUIVALENT: Mapping[str, str] = {
    # zod's e-mail address: no dot at the beginning, and no two in a row.
    r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+"
    r"[A-Za-z]{2,}$": rf"^({_LETTER}+\.)*{_LETTER}*[A-Za-z0-9_+-]@"
    r"([A-Za-z0-9][A-Za-z0-9-]*\.)+[A-Za-z]{2,}$",
}
"""Patterns that generators write, with others of the same meaning and no look-around."""

_LOOKS = {
    "(?=": "a look-ahead",
    "(?!": "a look-ahead",
    "(?<=": "a look-behind",
    "(?<!": "a look-behind",
}
_REPEAT = re.compile(r"[*+?]|\{\d+(?:,\d*)?\}")
_GROUP = re.compile(r"\(\?(?:P?<[A-Za-z_]\w*>|[imsx]*(?:-[imsx]+)?:)")
_FLAGS = re.compile(r"\(\?[ims]+\)")
_NAMED = re.compile(r"\\k<\w+>|\(\?P=\w+\)")
_PROPERTY = re.compile(r"\\[pP](?:\{\^?[A-Za-z_]+(?:=[A-Za-z_]+)?\}|[A-Z])")
_HEXADECIMAL = re.compile(r"\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|[xu]\{[0-9a-fA-F]{1,6}\})")
_POSIX = re.compile(r"\[:\^?[a-z]+:\]")
_CONTROLS = {"0": r"\x00", "v": r"\x0B", "f": r"\x0C", "n": r"\n", "r": r"\r", "t": r"\t"}


@dataclass(frozen=True, slots=True)
class RewrittenPattern:
    """A pattern that matches at least what the original does.

    `pattern`: None if nothing of it is left. `also`: patterns that have to match too. `lost`: what
    was left out, in words; without any the meaning is the same.
    """

    pattern: str | None
    also: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()


class _Unreadable(Exception):
    """A pattern that cannot be rewritten; says why."""


def rewritten(pattern: str) -> RewrittenPattern:
    """Return the pattern for finite automata."""
    pattern = _EQUIVALENT.get(pattern, pattern)
    if len(pattern) > MOST_CHARACTERS:
        return RewrittenPattern(None, lost=(f"more than {MOST_CHARACTERS} characters",))
    try:
        return _Rewriter(pattern).whole()
    except _Unreadable as why:
        return RewrittenPattern(None, lost=(str(why),))


@dataclass
class _Rewriter:
    text: str
    at: int = 0
    out: list[str] = field(default_factory=list)
    lost: dict[str, None] = field(default_factory=dict)
    ahead: list[str] = field(default_factory=list)
    """Look-aheads right after a leading `^`, where each is a pattern of its own."""
    opened: int = 0
    divided: bool = False
    """The pattern has alternatives at its top."""

    def whole(self) -> RewrittenPattern:
        while self.at < len(self.text):
            self._step()
        if self.opened:
            raise _Unreadable("an unclosed group")
        pattern = "".join(self.out)
        also: list[str] = []
        for ahead in self.ahead:
            inner = rewritten(f"^(?:{ahead})")
            if self.divided or inner.pattern is None or inner.lost:
                self.lost["a look-ahead"] = None
            else:
                also += (inner.pattern, *inner.also)
        return RewrittenPattern(pattern, tuple(also), tuple(self.lost))

    def _step(self) -> None:
        match self.text[self.at]:
            case "\\":
                self._escape()
            case "[":
                self.out.append(self._class())
                self._repeats()
            case "(":
                self._open()
            case ")":
                if not self.opened:
                    raise _Unreadable("an unopened group")
                self.opened -= 1
                self._emit(")")
                self._repeats()
            case "|":
                self.divided = self.divided or not self.opened
                self._emit("|")
            case "^" | "$" as anchor:
                self._anchor(anchor)
            case "*" | "+" | "?":
                raise _Unreadable("a repetition of nothing")
            case "{" | "}" | "]" as literal:
                self._emit("\\" + literal, 1)
                self._repeats()
            case literal:
                self._emit(literal)
                self._repeats()

    def _emit(self, text: str, length: int | None = None) -> None:
        self.out.append(text)
        self.at += len(text) if length is None else length

    def _lose(self, what: str, until: int) -> None:
        """Leave out what ends before `until`, with its repetition."""
        self.lost[what] = None
        self.at = until
        while found := _REPEAT.match(self.text, self.at):
            self.at = found.end()

    def _repeats(self) -> None:
        """Copy a repetition, which may be lazy; a possessive one allows less than a usual one."""
        if (found := _REPEAT.match(self.text, self.at)) is None:
            return
        self._emit(found[0])
        if self.text.startswith("?", self.at):
            self._emit("?")
        elif self.text.startswith("+", self.at):
            self.lost["a possessive repetition"] = None
            self.at += 1

    def _anchor(self, anchor: str) -> None:
        """Copy an anchor at an end of an alternative; elsewhere it is a look-around."""
        rest = self.text[self.at + 1 :].lstrip(")")
        before = "".join(self.out[-1:])
        if anchor == "^" and (not self.out or before == "|" or before.startswith("(")):
            self._emit("^")
        elif anchor == "$" and (not rest or rest.startswith("|")):
            self._emit("$")
        elif anchor == "$" and rest == "$":  # at the end of all, where another one stands
            self.at += 1
        else:
            self._lose(f"an inner `{anchor}`", self.at + 1)

    def _open(self) -> None:
        for opening, what in _LOOKS.items():
            if self.text.startswith(opening, self.at):
                self._look(opening, what)
                return
        if self.text.startswith("(?#", self.at):
            self.at = self._closing(self.at) + 1
        elif self.text.startswith("(?>", self.at):
            self.lost["an atomic group"] = None
            self._begin_group("(?:", 3)
        elif found := _NAMED.match(self.text, self.at):
            self._reference(found.end())
        elif found := _GROUP.match(self.text, self.at):
            # A name may be given twice in JavaScript, and means nothing here.
            opening = "(?:" if found[0].endswith(">") else found[0]
            self._begin_group(opening, len(found[0]))
        elif found := _FLAGS.match(self.text, self.at):
            self._emit(found[0])
        elif self.text.startswith("(?", self.at):
            raise _Unreadable("an unknown kind of group")
        else:
            self._begin_group("(", 1)

    def _begin_group(self, opening: str, length: int) -> None:
        self.opened += 1
        self._emit(opening, length)

    def _look(self, opening: str, what: str) -> None:
        end = self._closing(self.at)
        if opening == "(?=" and self.out == ["^"]:
            self.ahead.append(self.text[self.at + 3 : end])
            self.at = end + 1
        else:
            self._lose(what, end + 1)

    def _closing(self, at: int) -> int:
        """Return where the group that opens at `at` closes."""
        depth, within = 0, False
        while at < len(self.text):
            match self.text[at]:
                case "\\":
                    at += 1
                case "[":
                    within = True
                case "]":
                    within = False
                case "(" if not within:
                    depth += 1
                case ")" if not within:
                    depth -= 1
                    if not depth:
                        return at
            at += 1
        raise _Unreadable("an unclosed group")

    def _reference(self, end: int) -> None:
        self.lost["a back-reference"] = None
        self.out.append(_ANYTHING)
        self.at = end
        while found := _REPEAT.match(self.text, self.at):
            self.at = found.end()

    def _escape(self) -> None:
        letter = self.text[self.at + 1 : self.at + 2]
        if letter in ("b", "B"):
            self._lose(f"`\\{letter}`", self.at + 2)
        elif letter == "A":
            self._emit("^", 2)
        elif letter in ("Z", "z"):
            self._emit("$", 2)
        elif found := _NAMED.match(self.text, self.at):
            self._reference(found.end())
        elif letter.isdecimal() and letter != "0":
            self._reference(self.at + 2)
        else:
            self.out.append(self._escaped())
            self._repeats()

    def _escaped(self) -> str:
        """Return one escaped character or kind of characters, and go beyond it."""
        letter = self.text[self.at + 1 : self.at + 2]
        if not letter:
            raise _Unreadable("a lone backslash at its end")
        if found := _PROPERTY.match(self.text, self.at) or _HEXADECIMAL.match(self.text, self.at):
            self.at = found.end()
            return self._character(found[0])
        self.at += 2
        if letter in "dDwWsS":
            return "\\" + letter
        if letter in _CONTROLS:
            return _CONTROLS[letter]
        if letter == "c" and (control := self.text[self.at : self.at + 1]).isalpha():
            self.at += 1
            return f"\\x{ord(control) % 32:02X}"
        if letter in "pPuxQEGKRXhH":
            raise _Unreadable(f"`\\{letter}`")
        return re.escape(letter) if letter.isascii() and not letter.isalnum() else letter

    def _character(self, escape: str) -> str:
        code = escape[2:].strip("{}")
        if escape[1] == "u" and 0xD800 <= int(code, 16) <= 0xDFFF:
            raise _Unreadable("half a surrogate pair")
        return escape

    def _class(self) -> str:
        """Return a class of characters in which only ranges and kinds have a meaning."""
        self.at += 1
        negated = self.text.startswith("^", self.at)
        self.at += negated
        items: list[str] = []
        while (character := self.text[self.at : self.at + 1]) != "]":
            if not character:
                raise _Unreadable("an unclosed class of characters")
            items.append(self._class_item(character))
        self.at += 1
        if not items:
            return "(?s:.)" if negated else "[^\\s\\S]"
        return f"[{'^' if negated else ''}{''.join(_ranged(items))}]"

    def _class_item(self, character: str) -> str:
        if character == "\\":
            if self.text.startswith("b", self.at + 1):
                self.at += 2
                return r"\x08"
            return self._escaped()
        if character == "[" and (found := _POSIX.match(self.text, self.at)):
            self.at = found.end()
            return found[0]
        self.at += 1
        return "\\" + character if character in "[&~^" else character


def _ranged(items: list[str]) -> list[str]:
    """Return the items with each `-` that makes no range escaped."""
    ranged, ends = [], 0
    for at, item in enumerate(items):
        if item != "-":
            ranged.append(item)
            continue
        sides = items[at - 1 : at] + items[at + 1 : at + 2] if at else []
        range_here = len(sides) == 2 and at > ends and not any(map(_is_kind, sides))
        ranged.append("-" if range_here else r"\-")
        ends = at + 2 if range_here else ends
    return ranged


def _is_kind(item: str) -> bool:
    return item[:2] in (r"\d", r"\D", r"\w", r"\W", r"\s", r"\S", r"\p", r"\P", "[:")
