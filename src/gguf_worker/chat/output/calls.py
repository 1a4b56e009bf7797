"""How models write the calls of tools: one reading for each notation.

Each begins behind the mark that opens it, and each is a trial. The rule for what a model gets wrong: a call
is begun when its name has been read and its arguments come. What breaks off before that comes out as the
content it was, marks and all. What breaks off later ends the call, whose arguments are what came, and the
text after that is content.

Where the arguments are JSON they are passed on as they come; in the other notations (tags, Python, Gemma's
own) as one JSON text at the end of the call.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gguf_worker.chat.output import gemma, json_text
from gguf_worker.chat.output.declared import Declared
from gguf_worker.chat.output.event_writer import EventWriter
from gguf_worker.chat.output.reader import Malformed, Reader, Reading

Notation = Callable[[Reader, EventWriter, Declared], Reading[None]]

_NAME = re.compile(r"[\w.-]*")
_ID = re.compile(r"[\w.:-]{1,128}")
_MAX_NAME = 128
_MAX_PYTHON = 16 * 1024  # characters; what Python takes for some texts grows with their square


@dataclass(frozen=True, slots=True)
class _Keys:
    """What a notation calls the parts of a call. `strict`: nothing else is in one."""

    name: str = "name"
    arguments: tuple[str, ...] = ("arguments", "parameters")
    id: str | None = "id"
    strict: bool = False


_USUAL = _Keys()
_BARE = _Keys(strict=True)
_COMMAND = _Keys(name="tool_name", id=None)  # its ids count from 0 in every answer


def attempt(
    reader: Reader, writer: EventWriter, declared: Declared, opening: str, notation: Notation
) -> Reading[None]:
    """Reads calls behind `opening`; by the rule above where the model got them wrong."""
    reader.begin(opening)
    try:
        yield from notation(reader, writer, declared)
    except Malformed:
        if writer.calling:
            writer.end_call()
        else:
            writer.content(reader.tried)
    finally:
        reader.keep()


def bare(reader: Reader, writer: EventWriter, declared: Declared) -> Reading[None]:
    """Llama 3: the answer is `{"name": …, "parameters": …}`, and nothing marks that as a call.

    So it is one only if it names a tool that was declared and has no other fields. More of them may
    follow behind a semicolon.
    """
    while True:
        yield from _object(reader, writer, _BARE, declared)
        yield from reader.space()
        if (yield from reader.accept(";")):
            yield from reader.space()
        if (yield from reader.peek()) != "{":
            return
        reader.begin()


def tagged(reader: Reader, writer: EventWriter, declared: Declared) -> Reading[None]:
    """All that models write behind `<tool_call>`.

    Hermes, Qwen: a JSON object, or a list. Qwen3-Coder: `<function=…>` and parameters in tags. GLM: the
    name, then keys and values in tags.
    """
    yield from reader.space()
    first = yield from reader.need()
    if first in "{[":
        yield from _listed(reader, writer, _USUAL)
        yield from _closed(reader, "</tool_call>")
    elif first == "<":
        yield from reader.expect("<function=")
        yield from untagged(reader, writer, declared)
    else:
        yield from _keys_and_values(reader, writer, declared)


def seed(reader: Reader, writer: EventWriter, declared: Declared) -> Reading[None]:
    """Seed-OSS: as Qwen3-Coder, behind a mark of its own."""
    yield from reader.space()
    yield from reader.expect("<function=")
    yield from function(reader, writer, declared)
    yield from _closed(reader, "</seed:tool_call>")


def function(reader: Reader, writer: EventWriter, declared: Declared) -> Reading[None]:
    """Behind `<function=`: `name>` and a JSON object (Llama 3.1, Functionary) or parameters in tags."""
    name = (yield from reader.before(">")).strip()
    yield from reader.space()
    if (yield from reader.need()) == "{":
        yield from _call(reader, writer, name)
        yield from _closed(reader, "</function>")
        return
    arguments = {}
    while not (yield from reader.accept("</function>")):
        yield from reader.expect("<parameter=")
        key = (yield from reader.before(">")).strip()
        text = yield from reader.before("</parameter>")
        # Of the line breaks around a value those beside the tags are not its own.
        text = text.removeprefix("\n").removesuffix("\n")
        arguments[key] = declared.argument(name, key, text)
        yield from reader.space()
    _whole(reader, writer, name, arguments)


def untagged(reader: Reader, writer: EventWriter, declared: Declared) -> Reading[None]:
    """Qwen3-Coder, where the model left `<tool_call>` out and wrote its end."""
    yield from function(reader, writer, declared)
    yield from _closed(reader, "</tool_call>")


def invocations(prefix: str, block: str) -> Notation:
    """`<invoke name="…"><parameter name="…">…` in a block: MiniMax-M2, and with a prefix DeepSeek V3.2, V4.

    DeepSeek says of each value whether it is a text or JSON; for MiniMax the tool's schema does.
    """

    def read(reader: Reader, writer: EventWriter, declared: Declared) -> Reading[None]:
        yield from reader.space()
        while True:
            yield from reader.expect(f'<{prefix}invoke name="')
            name = yield from reader.before('">')
            yield from reader.space()
            arguments = {}
            while not (yield from reader.accept(f"</{prefix}invoke>")):
                yield from reader.expect(f'<{prefix}parameter name="')
                key, _, said = (yield from reader.before('">')).partition('" string="')
                text = yield from reader.before(f"</{prefix}parameter>")
                arguments[key] = (
                    text if said == "true" else declared.argument(name, key, text.strip("\n"))
                )
                yield from reader.space()
            _whole(reader, writer, name, arguments)
            yield from reader.space()
            if (yield from reader.accept(f"</{prefix}{block}>")):
                return
            if (yield from reader.peek()) != "<":
                return
            reader.begin()

    return read


def python_tag(reader: Reader, writer: EventWriter, declared: Declared) -> Reading[None]:
    """Llama 3.1 behind `<|python_tag|>`: a JSON object, or `name.call(key="value")` for a built-in tool.

    Other Python, which is meant for an interpreter, is content.
    """
    yield from reader.space()
    if (yield from reader.need()) == "{":
        yield from _objects(reader, writer)
        return
    calls = _python_calls((yield from reader.rest()).strip())
    if any(name not in declared for name, _ in calls):
        raise Malformed
    for name, arguments in calls:
        _whole(reader, writer, name, arguments)


def python_list(reader: Reader, writer: EventWriter, declared: Declared) -> Reading[None]:
    """LFM2 behind `<|tool_call_start|>`: `[name(key="value"), …]`."""
    text = yield from reader.before("<|tool_call_end|>")
    for name, arguments in _python_calls(text.strip()):
        _whole(reader, writer, name, arguments)


def tool_code(reader: Reader, writer: EventWriter, declared: Declared) -> Reading[None]:
    """Gemma 3 behind "```tool_code": `name(key="value")`, or a list of them. Other Python is content."""
    calls = _python_calls((yield from reader.before("```")).strip())
    if any(name not in declared for name, _ in calls):
        raise Malformed
    for name, arguments in calls:
        _whole(reader, writer, name, arguments)


def mistral(reader: Reader, writer: EventWriter, declared: Declared) -> Reading[None]:
    """Behind `[TOOL_CALLS]`: a JSON list (to v7), or `name[ARGS]{…}`, since Small 3.2 with a `[CALL_ID]`."""
    yield from reader.space()
    if (yield from reader.need()) in "[{":
        yield from _listed(reader, writer, _USUAL)
        return
    name = yield from reader.run(_NAME)
    yield from reader.space()
    id = None
    if (yield from reader.accept("[CALL_ID]")):
        id = yield from reader.run(_NAME)
    yield from reader.accept("[ARGS]")
    yield from reader.space()
    yield from _call(reader, writer, name, id)


def listed(end: str) -> Notation:
    """A JSON list of calls, or calls alone, up to `end`: Granite 3, Phi-4-mini, Nemotron Nano 2, Apriel."""

    def read(reader: Reader, writer: EventWriter, declared: Declared) -> Reading[None]:
        yield from reader.space()
        yield from _listed(reader, writer, _USUAL)
        yield from _closed(reader, end)

    return read


def command(reader: Reader, writer: EventWriter, declared: Declared) -> Reading[None]:
    """Command R7B behind `<|START_ACTION|>`: a JSON list with words of its own."""
    yield from reader.space()
    yield from _listed(reader, writer, _COMMAND)
    yield from _closed(reader, "<|END_ACTION|>")


def deepseek(reader: Reader, writer: EventWriter, declared: Declared) -> Reading[None]:
    """Behind `<｜tool▁calls▁begin｜>` (or the first call's own mark, where a model left that out).

    R1 and V3 name the kind, then the function, and fence the JSON; V3.1 has the name and bare JSON.
    """
    yield from reader.space()
    yield from reader.accept("<｜tool▁call▁begin｜>")
    while True:
        name = (yield from reader.before("<｜tool▁sep｜>")).strip()
        yield from reader.space()
        fenced = (yield from reader.need()) != "{"
        if fenced:
            name = (yield from reader.before("```json")).strip()
            yield from reader.space()
        yield from _call(reader, writer, name)
        if fenced:
            yield from _closed(reader, "```")
        yield from _closed(reader, "<｜tool▁call▁end｜>")
        yield from reader.space()
        if (yield from reader.accept("<｜tool▁calls▁end｜>")):
            return
        if not (yield from reader.accept("<｜tool▁call▁begin｜>")):
            return
        reader.begin("<｜tool▁call▁begin｜>")


def kimi(reader: Reader, writer: EventWriter, declared: Declared) -> Reading[None]:
    """Kimi K2 behind `<|tool_calls_section_begin|>`: each call has an id `functions.name:0`, and JSON."""
    yield from reader.space()
    yield from reader.expect("<|tool_call_begin|>")
    while True:
        id = (yield from reader.before("<|tool_call_argument_begin|>")).strip()
        yield from reader.space()
        yield from _call(reader, writer, id.removeprefix("functions.").partition(":")[0], id)
        yield from _closed(reader, "<|tool_call_end|>")
        yield from reader.space()
        if (yield from reader.accept("<|tool_calls_section_end|>")):
            return
        if not (yield from reader.accept("<|tool_call_begin|>")):
            return
        reader.begin("<|tool_call_begin|>")


def gemmas(quote: str, end: str) -> Notation:
    """FunctionGemma, Gemma 4: `call:name{key:value,…}`, texts between `quote`s, up to `end`."""

    def read(reader: Reader, writer: EventWriter, declared: Declared) -> Reading[None]:
        text = yield from reader.before(end)
        name, arguments = gemma.call(text, quote)
        _whole(reader, writer, name, arguments)

    return read


def nothing(reader: Reader, writer: EventWriter, declared: Declared) -> Reading[None]:
    """Behind a mark that says nothing to a reader of answers."""
    writer.part()
    yield from ()


def _objects(reader: Reader, writer: EventWriter) -> Reading[None]:
    """JSON objects, one behind the other."""
    while True:
        yield from _object(reader, writer, _USUAL)
        yield from reader.space()
        if (yield from reader.peek()) != "{":
            return
        reader.begin()


def _listed(reader: Reader, writer: EventWriter, keys: _Keys) -> Reading[None]:
    """A JSON list of objects, or objects one behind the other."""
    if not (yield from reader.accept("[")):
        yield from _objects(reader, writer)
        return
    while True:
        yield from reader.space()
        yield from _object(reader, writer, keys)
        yield from reader.space()
        if not (yield from reader.accept(",")):
            break
        reader.begin()
    yield from reader.accept("]")


def _object(
    reader: Reader, writer: EventWriter, keys: _Keys, declared: Declared | None = None
) -> Reading[None]:
    """A call as a JSON object, its fields in any order; of one of `declared`, where that is given."""
    name: str | None = None
    id: str | None = None
    arguments: list[str] = []
    yield from reader.expect("{")
    yield from reader.space()
    ended = yield from reader.accept("}")
    while not ended:
        key = yield from json_text.string(reader)
        yield from reader.space()
        yield from reader.expect(":")
        yield from reader.space()
        if key == keys.name and name is None:
            name = yield from json_text.string(reader)
            if declared is not None and name not in declared:
                raise Malformed
        elif key in keys.arguments and name is not None and not writer.calling:
            _begin(reader, writer, name, id)
            yield from _arguments(reader, writer)
        elif key in keys.arguments and not writer.calling:
            yield from json_text.value(reader, arguments.append)
        elif key == keys.id:
            id = yield from _text_or_none(reader)
        elif keys.strict and key != "type":
            raise Malformed
        else:
            yield from json_text.value(reader, _ignored)
        yield from reader.space()
        ended = yield from reader.accept("}")
        if not ended:
            yield from reader.expect(",")
            yield from reader.space()
    if not writer.calling:
        _begin(reader, writer, name or "", id)
        writer.arguments(_as_object("".join(arguments)))
    writer.end_call()


def _call(reader: Reader, writer: EventWriter, name: str, id: str | None = None) -> Reading[None]:
    """A call whose name is known: its arguments, a JSON object."""
    if (yield from reader.need()) != "{":
        raise Malformed
    _begin(reader, writer, name, id)
    yield from _arguments(reader, writer)
    writer.end_call()


def _begin(reader: Reader, writer: EventWriter, name: str, id: str | None) -> None:
    if not 0 < len(name) <= _MAX_NAME or not _NAME.fullmatch(name):
        raise Malformed
    reader.keep()
    writer.begin_call(name, id if id and _ID.fullmatch(id) else None)


def _arguments(reader: Reader, writer: EventWriter) -> Reading[None]:
    """As they come, if they are an object; what says so in another way is read to its end first."""
    if (yield from reader.need()) == "{":
        yield from json_text.value(reader, writer.arguments)
        return
    parts: list[str] = []
    yield from json_text.value(reader, parts.append)
    writer.arguments(_as_object("".join(parts)))


def _as_object(text: str) -> str:
    """Arguments that are null, or an object written into a text, as OpenAI's clients read them."""
    if text in ("", "null", '""'):
        return "{}"
    if text.startswith('"'):
        said = str(json_text.decoded(text))
        return said if said.lstrip().startswith("{") and _writable(said) else text
    return text


def _text_or_none(reader: Reader) -> Reading[str | None]:
    parts: list[str] = []
    yield from json_text.value(reader, parts.append)
    said = json_text.decoded("".join(parts))
    return said if isinstance(said, str) else None


def _keys_and_values(reader: Reader, writer: EventWriter, declared: Declared) -> Reading[None]:
    name = yield from reader.run(_NAME)
    yield from reader.space()
    arguments = {}
    while not (yield from reader.accept("</tool_call>")):
        yield from reader.expect("<arg_key>")
        key = (yield from reader.before("</arg_key>")).strip()
        yield from reader.space()
        yield from reader.expect("<arg_value>")
        text = yield from reader.before("</arg_value>")
        arguments[key] = declared.argument(name, key, text)
        yield from reader.space()
    if not arguments and name not in declared:  # a word in tags
        raise Malformed
    _whole(reader, writer, name, arguments)


def _whole(reader: Reader, writer: EventWriter, name: str, arguments: Mapping[str, Any]) -> None:
    """A call that has come as a whole."""
    try:
        text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError, RecursionError) as exc:
        raise Malformed from exc
    _begin(reader, writer, name, None)
    writer.arguments(text if _writable(text) else json.dumps(arguments))
    writer.end_call()


def _writable(text: str) -> bool:
    """Half of a surrogate pair can be escaped in JSON, but is no character."""
    return not any("\ud800" <= char <= "\udfff" for char in text)


def _closed(reader: Reader, end: str) -> Reading[None]:
    """The mark that ends calls; models forget it."""
    yield from reader.space()
    yield from reader.accept(end)


def _python_calls(text: str) -> list[tuple[str, dict[str, Any]]]:
    """`name(key=value)`, or a list of them, whose values are literals: Python's, or JSON's words."""
    if len(text) > _MAX_PYTHON:
        raise Malformed
    try:
        with warnings.catch_warnings(action="ignore"):  # of what is odd in the model's Python
            tree = ast.parse(text, mode="eval").body
        calls = tree.elts if isinstance(tree, ast.List) else [tree]
        read = [_python_call(call) for call in calls]
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as exc:
        raise Malformed from exc
    if not read:
        raise Malformed
    return read


def _python_call(call: ast.expr) -> tuple[str, dict[str, Any]]:
    if (
        not isinstance(call, ast.Call)
        or call.args
        or any(keyword.arg is None for keyword in call.keywords)
    ):
        raise ValueError("not a call by keywords")
    return ast.unparse(call.func).removesuffix(".call"), {
        str(keyword.arg): ast.literal_eval(_JsonWords().visit(keyword.value))
        for keyword in call.keywords
    }


class _JsonWords(ast.NodeTransformer):
    """Puts values in the place of the words that JSON has for them."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        words = {"true": True, "false": False, "null": None}
        return ast.Constant(words[node.id]) if node.id in words else node


def _ignored(text: str) -> None:
    """A field that no caller asks for."""
