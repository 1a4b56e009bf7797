"""The grammar of an answer that has to be calls of tools, or to match a format of the caller's.

Calls are in the notation that the model was trained on; a thought may come before them if the model
has thoughts. A free answer is held to its grammar from the mark of a call on; text before it is
free, but for the marks of other notations. The grammar is written in llguidance's dialect of lark.
The arguments of a call are constrained by the tool's JSON schema; the notation around them is
literal. Compiling the schema is llguidance's business.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, NamedTuple

from gguf_worker.chat.output.declared_tools import resolved_schema, schema_types
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
    PARAMETERS = auto()
    """The arguments, each as `CallFormat.parameter` has it."""
    KEY = auto()
    VALUE = auto()
    KIND = auto()
    """`true` if the value is a text, `false` if it is JSON."""
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
_ANY_KEY = '/[^<>"\\n]{1,128}/'
_MERGED = {FormatSlot.COLON: ": ", FormatSlot.COMMA: ", ", FormatSlot.CUT: ""}
"""Texts for slots that only keep JSON's tokens apart."""


@dataclass(frozen=True, slots=True)
class CallFormat:
    """The parts of a notation: `mark` `open` `call` (`between` `call`)* `close`.

    A special token is a part of its own. llguidance's lexer takes the longest match and does not
    backtrack: if no mark tells a call from other JSON (`mark` is ""), `call` has to be made of
    JSON's own tokens, separated by `FormatSlot.CUT`, `COLON` and `COMMA`.
    """

    mark: str
    call: tuple[FormatPart, ...]
    parameter: tuple[FormatPart, ...] = ()
    """One argument, in notations that have tags for them."""
    thought: tuple[FormatPart, ...] | None = None
    """A whole thought, if it is more than marks around a text."""
    after_thought: tuple[FormatPart, ...] | None = None
    """The rest of a thought that the prompt began, if it is more than a text and a mark."""
    interludes: tuple[tuple[FormatPart, ...], ...] = ()
    """The messages that may come before the answer, where everything is part of a message."""
    content: tuple[FormatPart, ...] = ()
    """The parts before an answer that calls nothing."""
    open: tuple[FormatPart, ...] = ()
    between: tuple[FormatPart, ...] = ()
    close: tuple[FormatPart, ...] = ()
    many: bool = True
    """An answer can hold several calls."""


@dataclass(frozen=True, slots=True)
class FreeText:
    """The marks that matter to the free text of an answer.

    `forbidden` open calls in other notations than the one that the grammar knows. `allowed` may
    stand in the text although they are special tokens.
    """

    forbidden: Collection[str] = ()
    allowed: Collection[str] = ()


def answer_grammar(
    call_format: CallFormat,
    tools: Sequence[Mapping[str, Any]],
    special: Mapping[str, int],
    thought: tuple[str, str],
    *,
    parallel: bool,
    thinking: Thinking,
    formatted: bool,
    free: FreeText | None = None,
    within: bool = False,
) -> str:
    """Return the grammar of calls of `tools`, or (`formatted`) of what `@inner` stands for.

    `special`: the ids of the vocabulary's control tokens, by their texts; other marks are text.
    `thought`: the marks of a thought. A thought that the prompt began has to end first. `free`: an
    answer may call nothing, and have text before and between its calls; only the arguments of tools
    that are `strict` are held to their schemas. `within`: the prompt ends inside the answer's text,
    which matters to a free answer where everything is part of a message.
    """
    rules = _GrammarRules(special, call_format.parameter, loose=free is not None)
    if free is not None:
        start = _free_answer(rules, call_format, tools, thought, thinking, free, parallel)
        if within and call_format.interludes:
            ended = rules.sequence(call_format.after_thought or ())
            start = f"ALL | {ended} ({start})"
        return rules.text(start)
    ways = [_calls(rules, call_format, tools, parallel)] if tools else []
    if formatted:
        ways.append(f"{rules.sequence(call_format.content)} @inner".lstrip())
    start = " | ".join(ways)
    opened, closed = thought
    if thinking is Thinking.BEGUN:
        rest = call_format.after_thought or (FormatSlot.THOUGHT, closed, FormatSlot.SPACE)
        start = f"{rules.sequence(rest)} ({start})"
    elif thinking is Thinking.OPTIONAL:
        whole = call_format.thought or (opened, FormatSlot.THOUGHT, closed, FormatSlot.SPACE)
        start = f"({rules.sequence(whole)})? ({start})"
    return rules.text(start)


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
    rules.add_calls(call_format.call, tools)
    return " ".join(filter(None, parts))


def _free_answer(
    rules: _GrammarRules,
    call_format: CallFormat,
    tools: Sequence[Mapping[str, Any]],
    thought: tuple[str, str],
    thinking: Thinking,
    free: FreeText,
    parallel: bool,
) -> str:
    """Return the first rule of an answer that may have text, and calls, and a thought before."""
    opened, closed = thought
    if call_format.interludes:
        start = _free_messages(rules, call_format, tools)
    else:
        bare = thinking is Thinking.OPTIONAL and not rules.has_special(opened)
        start = _free_text(rules, call_format, tools, free, opened if bare else "", parallel)
    if thinking is Thinking.BEGUN:
        rest = call_format.after_thought or (FormatSlot.THOUGHT, closed)
        return f"{rules.sequence(rest)} ({start})"
    if thinking is Thinking.OVER or call_format.interludes:
        return start
    return f"({rules.thought(opened, closed)})? ({start})"


def _free_messages(
    rules: _GrammarRules, call_format: CallFormat, tools: Sequence[Mapping[str, Any]]
) -> str:
    rules.add_calls((call_format.mark, *call_format.call), tools)
    before = " | ".join(map(rules.sequence, call_format.interludes))
    final = rules.sequence((*call_format.content, FormatSlot.THOUGHT))
    return f"({before})* ({final} | call)"


def _free_text(
    rules: _GrammarRules,
    call_format: CallFormat,
    tools: Sequence[Mapping[str, Any]],
    free: FreeText,
    thought: str,
    parallel: bool,
) -> str:
    """Return the rule of text with calls in it; `thought`: a mark that may not begin the text."""
    rules.add_calls(call_format.call, tools)
    text, marked = rules.free_text(call_format.mark, tools, free, thought)
    parts = [marked, rules.sequence(call_format.open), "call"]
    again = parallel and call_format.many
    if again and call_format.mark not in call_format.between:
        parts.append(f"({rules.sequence(call_format.between)} call){{0,{MAX_CALLS - 1}}}")
    calls = " ".join(filter(None, [*parts, rules.sequence(call_format.close)]))
    return f"({calls}){{0,{MAX_CALLS}}} {text}" if again else f"{text} | {calls}"


class _Piece(NamedTuple):
    """A part of a sequence: a `literal` text, or a `symbol` of the grammar."""

    literal: str = ""
    symbol: str = ""


_ANY_TEXT = _Piece(symbol="ALL")
_NOTHING = _Piece()
"""Keeps the texts on its sides apart."""


class _GrammarRules:
    """The rules that a grammar needs besides its first, as `lines` of lark.

    `parameter`: the format of one argument, in notations with tags. `loose`: only strict tools are
    held to their schemas, and a call is told from text by its beginning.
    """

    def __init__(
        self, special: Mapping[str, int], parameter: Sequence[FormatPart], *, loose: bool
    ) -> None:
        self._special = special
        self._marks = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))))
        self._parameter = parameter
        self._loose = loose
        self.lines = ["ALL: /(?s:.*)/"]

    def add_calls(self, parts: Sequence[FormatPart], tools: Sequence[Mapping[str, Any]]) -> None:
        """Add the rule `call`: a call of one of the tools."""
        functions = [tool["function"] for tool in tools]
        if self._loose and not any(function.get("strict") for function in functions):
            names = " | ".join(_literal(function["name"]) for function in functions)
            calls = [self._call(parts, _Piece(symbol=f"({names})"), {"type": "object"})]
        else:
            calls = [
                self._call(parts, _Piece(each["name"]), self._held_schema(each))
                for each in functions
            ]
        self.lines.append(f"call: {' | '.join(calls)}")

    def free_text(
        self, mark: str, tools: Sequence[Mapping[str, Any]], free: FreeText, thought: str
    ) -> tuple[str, str]:
        """Add the rules of free text; returns a text, and one that ends with `mark`."""
        begins = [f"/\\s*/ {_literal(thought)} ALL"] if thought else []
        if not mark:
            begins += _unmarked_calls(tools)
        others = self._containing(each for each in free.forbidden if each != mark)
        self.lines.append(f"FREE: ALL{_without([*others, *self._containing([mark]), *begins])}")
        allowed = sorted({self._special[each] for each in free.allowed if each in self._special})
        between = f"<[{','.join(map(str, allowed))}]>" if allowed else ""
        text = f"FREE ({between} FREE)*" if between else "FREE"
        if not mark:
            return text, ""
        if self.has_special(mark):
            pieces = list(self._split(mark))
            pieces = pieces[1:] if pieces[0].literal else pieces  # free text has the beginning
            return text, " ".join([text, *self._emitted(pieces)])
        self.lines.append(f"MARKED: (ALL {_literal(mark)}){_without([*others, *begins])}")
        self.lines.append("marked[lazy]: MARKED")
        return text, f"(FREE {between})* marked" if between else "marked"

    def thought(self, opened: str, closed: str) -> str:
        """Return a whole thought as lark."""
        if self.has_special(opened) or self.has_special(closed):
            return self.sequence((opened, FormatSlot.THOUGHT, closed))
        self.lines.append(f"THOUGHT: /\\s*/ {_literal(opened)} ALL {_literal(closed)}")
        self.lines.append("thought[lazy]: THOUGHT")
        return "thought"

    def has_special(self, mark: str) -> bool:
        """Tell if there is a special token of the vocabulary in a mark."""
        return bool(self._special) and self._marks.search(mark) is not None

    def text(self, start: str) -> str:
        """Return the whole grammar, whose first rule is `start`."""
        return "\n".join([f"start: {start}", *self.lines, ""])

    def sequence(self, parts: Iterable[FormatPart]) -> str:
        """Return `parts` as lark."""
        return " ".join(self._emitted(self._pieces(parts)))

    def _held_schema(self, function: Mapping[str, Any]) -> Any:
        """Return the schema to which a tool's arguments are held."""
        held = function.get("strict") or not self._loose
        return function.get("parameters") if held else {"type": "object"}

    def _call(self, parts: Sequence[FormatPart], tool: _Piece, schema: Any) -> str:
        """Add the rule of a call of the `tool`; returns the rule's name."""
        arguments = [_Piece(symbol=self._arguments(schema))]
        filled = {
            FormatSlot.NAME: [tool],
            FormatSlot.ARGUMENTS: arguments,
            FormatSlot.PARAMETERS: arguments,
        }
        rule = " ".join(self._emitted(self._pieces(parts, filled)))
        name = f"call_{len(self.lines)}"
        self.lines.append(f"{name}: {rule}")
        return name

    def _arguments(self, schema: Any) -> str:
        """Add the rule of arguments that match a schema; returns the rule's name."""
        if self._parameter:
            written = " ".join(each.symbol for each in self._parameters(schema)) or '""'
        else:
            written = f"%json {_json(_schema(schema))}"
        name = f"arguments_{len(self.lines)}"
        self.lines.append(f"{name}: {written}")
        return name

    def _parameters(self, schema: Any) -> Iterator[_Piece]:
        """Yield a symbol for each parameter, in the order of the schema."""
        root = schema if isinstance(schema, Mapping) else {}
        whole = resolved_schema(root, root)
        properties = whole.get("properties")
        if not isinstance(properties, Mapping) or not properties:
            closed = schema is None or whole.get("additionalProperties") is False
            if not closed:
                text = self._argument(_Piece(symbol=_ANY_KEY), "true", [_ANY_TEXT])
                yield _Piece(symbol=f"({text})*")
            return
        required = whole.get("required")
        demanded = required if isinstance(required, list) else ()
        for key, described in properties.items():
            kind, value = self._value(described, root)
            rule = f"parameter_{len(self.lines)}"
            written = self._argument(_Piece(key), kind, value)
            self.lines.append(f"{rule}: {written}")
            yield _Piece(symbol=rule if key in demanded else f"{rule}?")

    def _argument(self, key: _Piece, kind: str, value: Iterable[_Piece]) -> str:
        filled = {
            FormatSlot.KEY: [key],
            FormatSlot.KIND: [_Piece(kind)],
            FormatSlot.VALUE: value,
        }
        return " ".join(self._emitted(self._pieces(self._parameter, filled)))

    def _value(self, schema: Any, root: Mapping[str, Any]) -> tuple[str, list[_Piece]]:
        """Return the kind of a parameter's value, and the value itself."""
        described = resolved_schema(schema, root) if isinstance(schema, Mapping) else {}
        types = schema_types(described, root)
        choices = described.get("enum", [described["const"]] if "const" in described else None)
        if isinstance(choices, list) and choices and all(isinstance(c, str) for c in choices):
            return "true", [_Piece(symbol=f"({' | '.join(map(_literal, choices))})")]
        if not types or "string" in types:
            return "true", [_ANY_TEXT]
        rule = f"value_{len(self.lines)}"
        named = {key: root[key] for key in ("$defs", "definitions") if key in root}
        self.lines.append(f"{rule}: %json {_json(_styled({**named, **described}))}")
        return "false", [_Piece(symbol=rule)]

    def _pieces(
        self,
        parts: Iterable[FormatPart],
        filled: Mapping[FormatSlot, Iterable[_Piece]] | None = None,
    ) -> Iterator[_Piece]:
        for part in parts:
            if isinstance(part, str):
                yield from self._split(part)
            elif filled and part in filled:
                yield from filled[part]
            elif part is FormatSlot.THOUGHT:
                yield _ANY_TEXT
            elif self._loose and part in _MERGED:
                yield from self._split(_MERGED[part])
            elif part in _PATTERNS:
                yield _Piece(symbol=_PATTERNS[part])
            else:
                yield _NOTHING

    def _split(self, text: str) -> Iterator[_Piece]:
        """Yield the special tokens in a text, and the texts between them."""
        at = 0
        for found in self._marks.finditer(text) if self._special else ():
            if before := text[at : found.start()]:
                yield _Piece(before)
            yield _Piece(symbol=f"<[{self._special[found[0]]}]>")
            at = found.end()
        if rest := text[at:]:
            yield _Piece(rest)

    def _emitted(self, pieces: Iterable[_Piece]) -> Iterator[str]:
        """Yield a symbol for each piece; neighbouring texts become one."""
        text, free = "", False
        for piece in (*pieces, _NOTHING):
            if piece.literal:
                text += piece.literal
                continue
            if free:
                yield self._text_before(text)
            elif text:
                yield _literal(text)
            text, free = "", piece is _ANY_TEXT
            if piece.symbol and not free:
                yield piece.symbol

    def _text_before(self, end: str) -> str:
        """Add a rule for a text up to the first `end`; "": up to the next special token."""
        if not end:
            return "ALL"
        name = f"text_{len(self.lines)}"
        self.lines.append(f"{name}[lazy]: ALL {_literal(end)}")
        return name

    def _containing(self, marks: Iterable[str]) -> list[str]:
        """Return a terminal of the texts that have one of the marks which are text, if any are."""
        found = [_literal(mark) for mark in dict.fromkeys(marks) if not self.has_special(mark)]
        found = [mark for mark in found if mark != '""']
        return [f"ALL ({' | '.join(found)}) ALL"] if found else []


def _unmarked_calls(tools: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the beginnings by which a text without marks is taken for a call."""
    keys = " | ".join(map(_literal, ('"name"', '"type"', '"parameters"', '"arguments"', '"id"')))
    names = " | ".join(_literal(tool["function"]["name"]) for tool in tools)
    yield f'/\\s*/ "{{" /\\s*/ ({keys}) ALL'
    yield f'/\\s*/ "[" /\\s*/ ({names}) "(" ALL'


def _without(terminals: Iterable[str]) -> str:
    return "".join(f" & ~({each})" for each in terminals)


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _json(schema: Mapping[str, Any]) -> str:
    return json.dumps(schema, ensure_ascii=False)


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
    return _styled(schema)


def _styled(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema with the style of its JSON."""
    return {**schema, "x-guidance": JSON_STYLE}
