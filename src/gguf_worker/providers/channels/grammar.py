"""A grammar for answers that have to be tool calls, in the notation that the model was trained on.

Written in llguidance's dialect of lark. The arguments are held to the tool's JSON schema; around them
stands the notation, letter for letter. What llguidance makes of a schema is not known here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

MAX_CALLS = 16
"""Calls that one answer may be made of: a weak model would go on without end."""


class Slot(Enum):
    """What a notation is filled with."""

    NAME = auto()
    ARGUMENTS = auto()
    ID = auto()
    NUMBER = auto()
    THOUGHT = auto()
    PROSE = auto()
    """Any text, with thoughts in it."""
    ASIDE = auto()
    """Prose that does not begin as a call does which has no mark: what it is has to be clear at once."""
    SPACE = auto()


Part = str | Slot

_TEXT = "TEXT: /(?s:.*)/"
_ASIDE = "ASIDE: /[^{](?s:.*)/"
_PATTERNS = {Slot.ID: "/[a-zA-Z0-9]{9}/", Slot.NUMBER: "/[0-9]{1,3}/", Slot.SPACE: "/[ \\n]{0,4}/"}


@dataclass(frozen=True, slots=True)
class Written:
    """A notation as its parts: `before` `mark` `opening` `call` (`between` `call`)* `close`.

    A special token is a part of its own. `before` is what may come first; only calls that begin with a
    mark can be behind prose. `after_thought` ends a thought that the prompt began, where that takes more
    than its mark. `many`: an answer can hold several calls.
    """

    mark: str
    call: tuple[Part, ...]
    before: tuple[Part, ...] = (Slot.PROSE,)
    after_thought: tuple[Part, ...] | None = None
    opening: tuple[Part, ...] = ()
    between: tuple[Part, ...] = ()
    close: tuple[Part, ...] = ()
    many: bool = True

    @property
    def texts(self) -> frozenset[str]:
        """All parts that are written as they are."""
        parts = (self.mark, *self.before, *self.opening, *self.call, *self.between, *self.close)
        return frozenset(part for part in parts if isinstance(part, str) and part)


def of_calls(
    written: Written,
    tools: Sequence[Mapping[str, Any]],
    special: Mapping[str, int],
    thought: tuple[str, str],
    *,
    parallel: bool,
    before: bool,
    thinking: bool,
) -> str:
    """The grammar of one or more calls of `tools`; `thought` are the marks of a thought.

    `special`: token ids of the marks that are control tokens. The rest is text. `before`: prose may come
    first; `thinking`: the rest of a thought has to.
    """
    rules = _Rules(special, thought)
    first = (*((written.mark,) if written.mark else ()), *written.opening)
    parts = [rules.sequence(first)]
    if before:
        # Without a mark of its own a call can only follow a thought, whose end marks it then.
        lead = written.before if written.mark else (Slot.ASIDE, thought[1], Slot.SPACE)
        led = rules.sequence((*lead, *first))
        parts = [f"({led} | {parts[0]})" if parts[0] else f"({led})?"]
    if thinking:
        end = written.after_thought or (Slot.THOUGHT, thought[1], Slot.SPACE)
        parts.insert(0, rules.sequence(end))
    calls = " | ".join(rules.call(written.call, tool["function"]) for tool in tools)
    parts.append("call")
    if parallel and written.many:
        parts.append(f"({rules.sequence(written.between)} call){{0,{MAX_CALLS - 1}}}")
    parts.append(rules.sequence(written.close))
    start = " ".join(filter(None, parts))
    return "\n".join([f"start: {start}", f"call: {calls}", *rules.lines, ""])


class _Rules:
    """The rules that a grammar needs besides its first."""

    def __init__(self, special: Mapping[str, int], thought: tuple[str, str]) -> None:
        self._special = special
        self._thoughts = [self._token(mark) for mark in thought if mark in special]
        self.lines: list[str] = []

    def call(self, parts: Sequence[Part], function: Mapping[str, Any]) -> str:
        """One tool's call, as the name of its rule."""
        number = len(self.lines)
        arguments = f"arguments_{number}"
        self.lines.append(f"{arguments}: %json {json.dumps(_schema(function.get('parameters')))}")
        filled = [function["name"] if part is Slot.NAME else part for part in parts]
        rule = f"call_{number}"
        self.lines.append(f"{rule}: {self.sequence(filled, arguments)}")
        return rule

    def sequence(self, parts: Sequence[Part], arguments: str = "") -> str:
        return " ".join(self._pieces(parts, arguments))

    def _pieces(self, parts: Sequence[Part], arguments: str) -> Iterator[str]:
        """Neighbouring texts are one, so that a token may be a part of both."""
        text = ""
        prose: Slot | None = None
        for part in (*parts, None):
            if isinstance(part, str) and part not in self._special:
                text += part
                continue
            if prose:
                yield self._prose(prose, text)
            elif text:
                yield _literal(text)
            text, prose = "", None
            if isinstance(part, str):
                yield self._token(part)
            elif part is Slot.ARGUMENTS:
                yield arguments
            elif part in _PATTERNS:
                yield _PATTERNS[part]
            else:
                prose = part

    def _prose(self, kind: Slot, end: str) -> str:
        """Text up to where `end` comes first; "": up to a special token, which text can't be."""
        terminal = "ASIDE" if kind is Slot.ASIDE else "TEXT"
        self._add(_ASIDE if kind is Slot.ASIDE else _TEXT)
        if end:
            number = len(self.lines)
            self.lines.append(f"lead_{number}[lazy]: {terminal} {_literal(end)}")
            return f"lead_{number}"
        if kind is Slot.THOUGHT or not self._thoughts:
            return terminal
        self._add(_TEXT)
        self._add(f"prose: {terminal} (({' | '.join(self._thoughts)}) TEXT)*")
        return "prose"

    def _add(self, line: str) -> None:
        if line not in self.lines:
            self.lines.append(line)

    def _token(self, mark: str) -> str:
        return f"<[{self._special[mark]}]>"


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _schema(parameters: Any) -> dict[str, Any]:
    """The schema of a tool's arguments: an object, of the named fields where some are named.

    A model that is free to add fields does so without end; what it may add, the schema has to say.
    """
    schema = dict(parameters) if isinstance(parameters, Mapping) else {}
    combined = {"anyOf", "oneOf", "allOf", "$ref", "patternProperties"} & schema.keys()
    if not combined:
        schema.setdefault("type", "object")
        if "properties" in schema or parameters is None:
            schema.setdefault("additionalProperties", False)
    schema["x-guidance"] = {
        "item_separator": ",\\x20?",
        "key_separator": ":\\x20?",
        "whitespace_flexible": False,
    }
    return schema
