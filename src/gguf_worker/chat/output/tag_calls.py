"""Notations with tags: Hermes's `<tool_call>`, and arguments in tags of their own."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from gguf_worker.chat.output.answer_reader import AnswerReader, Incremental, Malformed, Marks
from gguf_worker.chat.output.declared_tools import DeclaredTools
from gguf_worker.chat.output.event_writer import EventWriter
from gguf_worker.chat.output.json_calls import list_or_objects, named_call
from gguf_worker.chat.output.notation import NAME, Notation, begin_call, encodable, skip_end


def tool_call(
    reader: AnswerReader, writer: EventWriter, declared: DeclaredTools
) -> Incremental[None]:
    """Read a call after `<tool_call>`, in the form that any of these models writes.

    Hermes, Qwen: a JSON object, or a list. Qwen3-Coder: `<function=…>` and parameters in tags. GLM:
    the name, then keys and values in tags.
    """
    yield from reader.skip_space()
    first = yield from reader.need()
    if first in "{[":
        yield from list_or_objects(reader, writer)
        yield from skip_end(reader, "</tool_call>")
    elif first == "<":
        yield from reader.expect("<function=")
        yield from unopened_function(reader, writer, declared)
    else:
        yield from _keys_and_values(reader, writer, declared)


def function(
    reader: AnswerReader, writer: EventWriter, declared: DeclaredTools
) -> Incremental[None]:
    """Read a call after `<function=`: `name>`, then a JSON object or parameters in tags.

    Llama 3.1 and Functionary write JSON.
    """
    name = (yield from reader.before(">")).strip()
    yield from reader.skip_space()
    if (yield from reader.need()) == "{":
        yield from named_call(reader, writer, name)
        yield from skip_end(reader, "</function>")
        return
    arguments = _TaggedArguments(reader, writer, declared, name)
    while (yield from arguments.more("<parameter=", "</function>")):
        key = (yield from reader.before(">")).strip()
        # One line break beside each tag is not part of the value.
        yield from arguments.read(key, "</parameter>", _one_line_less)
    arguments.end()


def unopened_function(
    reader: AnswerReader, writer: EventWriter, declared: DeclaredTools
) -> Incremental[None]:
    """Read Qwen3-Coder's call, whose `<tool_call>` the model left out, and its `</tool_call>`."""
    yield from function(reader, writer, declared)
    yield from skip_end(reader, "</tool_call>")


def seed(reader: AnswerReader, writer: EventWriter, declared: DeclaredTools) -> Incremental[None]:
    """Read Seed-OSS's call after `<seed:tool_call>`: the same as Qwen3-Coder's."""
    yield from reader.skip_space()
    yield from reader.expect("<function=")
    yield from function(reader, writer, declared)
    yield from skip_end(reader, "</seed:tool_call>")


def invocations(prefix: str, block: str) -> Notation:
    """Return the notation `<invoke name="…"><parameter name="…">…` in a block.

    MiniMax-M2 writes it, and with a prefix DeepSeek V3.2 and V4. DeepSeek marks each value as text
    or JSON; for MiniMax the tool's schema decides.
    """

    def read(
        reader: AnswerReader, writer: EventWriter, declared: DeclaredTools
    ) -> Incremental[None]:
        yield from reader.skip_space()
        while True:
            yield from reader.expect(f'<{prefix}invoke name="')
            name = yield from reader.before('">')
            yield from reader.skip_space()
            arguments = _TaggedArguments(reader, writer, declared, name)
            while (yield from arguments.more(f'<{prefix}parameter name="', f"</{prefix}invoke>")):
                key, _, is_text = (yield from reader.before('">')).partition('" string="')
                text = is_text == "true"
                trim = str if text else _no_lines_beside
                yield from arguments.read(key, f"</{prefix}parameter>", trim, text=text)
            arguments.end()
            yield from reader.skip_space()
            if (yield from reader.accept(f"</{prefix}{block}>")):
                return
            if (yield from reader.peek()) != "<":
                return
            reader.begin_trial()

    return read


def _keys_and_values(
    reader: AnswerReader, writer: EventWriter, declared: DeclaredTools
) -> Incremental[None]:
    """Read GLM's call: a name, then `<arg_key>` and `<arg_value>` in turns."""
    name = yield from reader.run(NAME)
    yield from reader.skip_space()
    arguments = _TaggedArguments(reader, writer, declared, name)
    while (yield from arguments.more("<arg_key>", "</tool_call>")):
        key = (yield from reader.before("</arg_key>")).strip()
        yield from reader.skip_space()
        yield from reader.expect("<arg_value>")
        yield from arguments.read(key, "</arg_value>", str)
    if not arguments.begun and name not in declared:  # a plain word in tags
        raise Malformed
    arguments.end()


class _TaggedArguments:
    """Writes the arguments of a call as JSON, each when its value has been read.

    The call begins with its first argument. A value that does not end leaves its call without one.
    """

    def __init__(
        self, reader: AnswerReader, writer: EventWriter, declared: DeclaredTools, name: str
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._declared = declared
        self._name = name
        self._before = "{"
        self.begun = False

    def more(self, opening: str, end: str) -> Incremental[bool]:
        """Read `opening`, or the call's `end`; models forget the latter after an argument."""
        yield from self._reader.skip_space()
        if (yield from self._reader.accept(opening)):
            return True
        if not (yield from self._reader.accept(end)) and (not self.begun or self._reader.cut):
            raise Malformed
        return False

    def read(
        self, key: str, end: str, trim: Callable[[str], str], *, text: bool = False
    ) -> Incremental[None]:
        """Read the value up to `end`; `text`: it is one whatever the schema says."""
        self._begin()
        parts: list[str] = []
        ended = yield from self._reader.until(Marks((end,)), parts.append)
        self._writer.arguments(f"{self._before}{_encoded(key)}: ")
        self._before = ", "
        value = trim("".join(parts))
        if ended is None:
            self._writer.arguments(_encoded(value)[:-1])
            raise Malformed
        given = value if text else self._declared.argument(self._name, key, value)
        self._writer.arguments(_encoded(given, value))

    def end(self) -> None:
        """End the call."""
        self._begin()
        self._writer.arguments("{}" if self._before == "{" else "}")
        self._writer.end_call()

    def _begin(self) -> None:
        if not self.begun:
            begin_call(self._reader, self._writer, self._name, None)
            self.begun = True


def _encoded(value: Any, text: str = "") -> str:
    """Return the value as JSON; a value that JSON cannot represent as the `text` that it was."""
    try:
        encoded = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError, RecursionError):
        return _encoded(text)
    return encoded if encodable(encoded) else json.dumps(value)


def _one_line_less(text: str) -> str:
    return text.removeprefix("\n").removesuffix("\n")


def _no_lines_beside(text: str) -> str:
    return text.strip("\n")
