"""The grammar of an answer that has to be calls of tools, or to match a format of the caller's.

Calls are in the notation that the model was trained on; a thought may come before them if the model
has thoughts. The grammar is written in llguidance's dialect of lark. The arguments of a call are
constrained by the tool's JSON schema; the notation around them is literal. Compiling the schema is
llguidance's business.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from gguf_worker.generation import JSON_STYLE

MAX_CALLS = 16
"""The most calls in one answer; a weak model would go on without end."""


class Thinking(Enum):
    """State of the model's thought at the start of its answer."""

    OVER = auto()
    """No thought comes: the model has none, or the prompt has ended it."""
    OPTIONAL = auto()
    """A thought may come first."""
    BEGUN = auto()
    """The prompt ends inside a thought."""


class FormatSlot(Enum):
    """A place in a notation that is filled in."""

    NAME = auto()
    ARGUMENTS = auto()
    ID = auto()
    NUMBER = auto()
    THOUGHT = auto()
    SPACE = auto()
    COLON = auto()
    COMMA = auto()
    CUT = auto()
    """An empty separator between two texts that are two tokens of JSON."""


FormatPart = str | FormatSlot

_PATTERNS = {
    FormatSlot.ID: "/[a-zA-Z0-9]{9}/",
    FormatSlot.NUMBER: "/[0-9]{1,3}/",
    FormatSlot.SPACE: "/[ \\n]{0,4}/",
    FormatSlot.COLON: "/:\\x20?/",
    FormatSlot.COMMA: "/,\\x20?/",
}


@dataclass(frozen=True, slots=True)
class CallFormat:
    """The parts of a notation: `mark` `open` `call` (`between` `call`)* `close`.

    A special token is a part of its own. llguidance's lexer takes the longest match and does not
    backtrack: if no mark tells a call from other JSON (`mark` is ""), `call` has to be made of
    JSON's own tokens, separated by `FormatSlot.CUT`, `COLON` and `COMMA`.
    """

    mark: str
    call: tuple[FormatPart, ...]
    thought: tuple[FormatPart, ...] | None = None
    """A whole thought, if it is more than marks around a text."""
    after_thought: tuple[FormatPart, ...] | None = None
    """The rest of a thought that the prompt began, if it is more than a text and a mark."""
    content: tuple[FormatPart, ...] = ()
    """The parts before an answer that calls nothing."""
    open: tuple[FormatPart, ...] = ()
    between: tuple[FormatPart, ...] = ()
    close: tuple[FormatPart, ...] = ()
    many: bool = True
    """An answer can hold several calls."""


def answer_grammar(
    call_format: CallFormat,
    tools: Sequence[Mapping[str, Any]],
    special: Mapping[str, int],
    thought: tuple[str, str],
    *,
    parallel: bool,
    thinking: Thinking,
    formatted: bool,
) -> str:
    """Return the grammar of calls of `tools`, or (`formatted`) of what `@inner` stands for.

    `special`: the ids of the vocabulary's control tokens, by their texts; other marks are text.
    `thought`: the marks of a thought. A thought that the prompt began has to end first.
    """
    rules = _GrammarRules(special)
    ways = [_calls(rules, call_format, tools, parallel)] if tools else []
    if formatted:
        ways.append(f"{rules.sequence(call_format.content)} @inner".lstrip())
    opened, closed = thought
    start = " | ".join(ways)
    if thinking is Thinking.BEGUN:
        rest = call_format.after_thought or (FormatSlot.THOUGHT, closed, FormatSlot.SPACE)
        start = f"{rules.sequence(rest)} ({start})"
    elif thinking is Thinking.OPTIONAL:
        whole = call_format.thought or (
            *rules.cut(opened),
            FormatSlot.THOUGHT,
            closed,
            FormatSlot.SPACE,
        )
        start = f"({rules.sequence(whole)})? ({start})"
    return "\n".join([f"start: {start}", *rules.lines, ""])


def _calls(
    rules: _GrammarRules,
    call_format: CallFormat,
    tools: Sequence[Mapping[str, Any]],
    parallel: bool,
) -> str:
    parts = [
        rules.sequence((*((call_format.mark,) if call_format.mark else ()), *call_format.open)),
        "call",
    ]
    if parallel and call_format.many:
        parts.append(f"({rules.sequence(call_format.between)} call){{0,{MAX_CALLS - 1}}}")
    parts.append(rules.sequence(call_format.close))
    calls = [rules.call(call_format.call, tool["function"]) for tool in tools]
    rules.lines.append(f"call: {' | '.join(calls)}")
    return " ".join(filter(None, parts))


class _GrammarRules:
    """The rules that a grammar needs besides its first, as `lines` of lark."""

    def __init__(self, special: Mapping[str, int]) -> None:
        self._special = special
        self.lines: list[str] = []

    def call(self, parts: Sequence[FormatPart], function: Mapping[str, Any]) -> str:
        """Add the rule of one tool's call; returns the rule's name."""
        number = len(self.lines)
        arguments = f"arguments_{number}"
        schema = json.dumps(_schema(function.get("parameters")), ensure_ascii=False)
        self.lines.append(f"{arguments}: %json {schema}")
        filled = [function["name"] if part is FormatSlot.NAME else part for part in parts]
        rule = f"call_{number}"
        self.lines.append(f"{rule}: {self.sequence(filled, arguments)}")
        return rule

    def cut(self, mark: str) -> tuple[str, ...]:
        """Split a mark that begins with a special token into the token and the text after it."""
        begins = (each for each in self._special if mark.startswith(each))
        token = max(begins, key=len, default="")
        return tuple(filter(None, (token, mark.removeprefix(token))))

    def sequence(self, parts: Sequence[FormatPart], arguments: str = "") -> str:
        """Return `parts` as lark, where `arguments` is the name of the arguments' rule."""
        return " ".join(self._symbols(parts, arguments))

    def _symbols(self, parts: Sequence[FormatPart], arguments: str) -> Iterator[str]:
        """Yield a symbol for each part; neighbouring texts become one."""
        text, thought = "", False
        for part in (*parts, None):
            if isinstance(part, str) and part not in self._special:
                text += part
                continue
            if thought:
                yield self._thought(text)
            elif text:
                yield _literal(text)
            text, thought = "", part is FormatSlot.THOUGHT
            if isinstance(part, str):
                yield f"<[{self._special[part]}]>"
            elif part is FormatSlot.ARGUMENTS:
                yield arguments
            elif part in _PATTERNS:
                yield _PATTERNS[part]

    def _thought(self, end: str) -> str:
        """Add rules for a text up to the first `end`; "": up to the next special token."""
        self.lines.append("TEXT: /(?s:.*)/")
        if not end:
            return "TEXT"
        self.lines.append(f"thought[lazy]: TEXT {_literal(end)}")
        return "thought"


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _schema(parameters: Any) -> dict[str, Any]:
    """Return the schema of a tool's arguments: an object, limited to named fields if it has some.

    A model that is free to add fields does so without end, so a schema has to allow them itself.
    """
    schema = dict(parameters) if isinstance(parameters, Mapping) else {}
    combined = {"anyOf", "oneOf", "allOf", "$ref", "patternProperties"} & schema.keys()
    if not combined:
        schema.setdefault("type", "object")
        if "properties" in schema or parameters is None:
            schema.setdefault("additionalProperties", False)
    return {**schema, "x-guidance": JSON_STYLE}
