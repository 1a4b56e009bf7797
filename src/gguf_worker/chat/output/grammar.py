"""A grammar for answers that are held to something: calls in the notation that the model was trained on, a
format of the caller's, or one of the two; and before them a thought, where the model has one.

CallFormat in llguidance's dialect of lark. The arguments are held to the tool's JSON schema; around them
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


class Thinking(Enum):
    """Whether an answer may begin with a thought."""

    OVER = auto()
    """It has none, or the prompt ended it."""
    OPTIONAL = auto()
    BEGUN = auto()
    """The prompt ends inside of it."""


class Slot(Enum):
    """What a notation is filled with."""

    NAME = auto()
    ARGUMENTS = auto()
    ID = auto()
    NUMBER = auto()
    THOUGHT = auto()
    SPACE = auto()
    COLON = auto()
    COMMA = auto()
    CUT = auto()
    """Nothing, between two texts that JSON reads as two words."""


Part = str | Slot

_PATTERNS = {
    Slot.ID: "/[a-zA-Z0-9]{9}/",
    Slot.NUMBER: "/[0-9]{1,3}/",
    Slot.SPACE: "/[ \\n]{0,4}/",
    Slot.COLON: "/:\\x20?/",
    Slot.COMMA: "/,\\x20?/",
}


@dataclass(frozen=True, slots=True)
class CallFormat:
    """A notation as its parts: `mark` `opening` `call` (`between` `call`)* `close`.

    A special token is a part of its own. llguidance takes the longest word there is and does not go back:
    where no mark tells a call from JSON (`mark` is ""), `call` has to be made of JSON's own words, which
    `Slot.CUT` and its like part. `thought`: a thought as a whole, and `after_thought` the rest of one that
    the prompt began, where they are more than marks around a text. `content`: what stands before an
    answer that calls nothing. `many`: an answer can hold several calls.
    """

    mark: str
    call: tuple[Part, ...]
    thought: tuple[Part, ...] | None = None
    after_thought: tuple[Part, ...] | None = None
    content: tuple[Part, ...] = ()
    opening: tuple[Part, ...] = ()
    between: tuple[Part, ...] = ()
    close: tuple[Part, ...] = ()
    many: bool = True


def of_answer(
    written: CallFormat,
    tools: Sequence[Mapping[str, Any]],
    special: Mapping[str, int],
    thought: tuple[str, str],
    *,
    parallel: bool,
    thinking: Thinking,
    formatted: bool,
) -> str:
    """The grammar of one or more calls of `tools`, or (`formatted`) what `@inner` stands for.

    `special`: token ids of the marks that are control tokens. The rest is text. `thought` are the marks
    of a thought. One that the prompt began has to be ended.
    """
    rules = _Rules(special)
    ways = [_calls(rules, written, tools, parallel)] if tools else []
    if formatted:
        ways.append(f"{rules.sequence(written.content)} @inner".lstrip())
    opened, closed = thought
    start = " | ".join(ways)
    if thinking is Thinking.BEGUN:
        rest = written.after_thought or (Slot.THOUGHT, closed, Slot.SPACE)
        start = f"{rules.sequence(rest)} ({start})"
    elif thinking is Thinking.OPTIONAL:
        whole = written.thought or (*rules.cut(opened), Slot.THOUGHT, closed, Slot.SPACE)
        start = f"({rules.sequence(whole)})? ({start})"
    return "\n".join([f"start: {start}", *rules.lines, ""])


def _calls(
    rules: _Rules, written: CallFormat, tools: Sequence[Mapping[str, Any]], parallel: bool
) -> str:
    parts = [rules.sequence((*((written.mark,) if written.mark else ()), *written.opening)), "call"]
    if parallel and written.many:
        parts.append(f"({rules.sequence(written.between)} call){{0,{MAX_CALLS - 1}}}")
    parts.append(rules.sequence(written.close))
    calls = [rules.call(written.call, tool["function"]) for tool in tools]
    rules.lines.append(f"call: {' | '.join(calls)}")
    return " ".join(filter(None, parts))


class _Rules:
    """The rules that a grammar needs besides its first."""

    def __init__(self, special: Mapping[str, int]) -> None:
        self._special = special
        self.lines: list[str] = []

    def call(self, parts: Sequence[Part], function: Mapping[str, Any]) -> str:
        """One tool's call, as the name of its rule."""
        number = len(self.lines)
        arguments = f"arguments_{number}"
        schema = json.dumps(_schema(function.get("parameters")), ensure_ascii=False)
        self.lines.append(f"{arguments}: %json {schema}")
        filled = [function["name"] if part is Slot.NAME else part for part in parts]
        rule = f"call_{number}"
        self.lines.append(f"{rule}: {self.sequence(filled, arguments)}")
        return rule

    def cut(self, mark: str) -> tuple[str, ...]:
        """A mark that may be a special token and text behind it, as these."""
        begins = (each for each in self._special if mark.startswith(each))
        token = max(begins, key=len, default="")
        return tuple(filter(None, (token, mark.removeprefix(token))))

    def sequence(self, parts: Sequence[Part], arguments: str = "") -> str:
        return " ".join(self._pieces(parts, arguments))

    def _pieces(self, parts: Sequence[Part], arguments: str) -> Iterator[str]:
        """Neighbouring texts are one."""
        text, thought = "", False
        for part in (*parts, None):
            if isinstance(part, str) and part not in self._special:
                text += part
                continue
            if thought:
                yield self._thought(text)
            elif text:
                yield _literal(text)
            text, thought = "", part is Slot.THOUGHT
            if isinstance(part, str):
                yield f"<[{self._special[part]}]>"
            elif part is Slot.ARGUMENTS:
                yield arguments
            elif part in _PATTERNS:
                yield _PATTERNS[part]

    def _thought(self, end: str) -> str:
        """Text up to where `end` comes first; "": up to a special token, which text can't be."""
        self.lines.append("TEXT: /(?s:.*)/")
        if not end:
            return "TEXT"
        self.lines.append(f"thought[lazy]: TEXT {_literal(end)}")
        return "thought"


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
