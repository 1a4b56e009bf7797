"""Notations with tags: Hermes's `<tool_call>`, and arguments in tags of their own."""

from __future__ import annotations

from gguf_worker.chat.output.answer_reader import AnswerReader, Incremental, Malformed
from gguf_worker.chat.output.declared_tools import DeclaredTools
from gguf_worker.chat.output.event_writer import EventWriter
from gguf_worker.chat.output.json_calls import list_or_objects, named_call
from gguf_worker.chat.output.notation import NAME, Notation, skip_end, whole_call


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
    arguments = {}
    while not (yield from reader.accept("</function>")):
        yield from reader.expect("<parameter=")
        key = (yield from reader.before(">")).strip()
        text = yield from reader.before("</parameter>")
        # One line break beside each tag is not part of the value.
        text = text.removeprefix("\n").removesuffix("\n")
        arguments[key] = declared.argument(name, key, text)
        yield from reader.skip_space()
    whole_call(reader, writer, name, arguments)


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
            arguments = {}
            while not (yield from reader.accept(f"</{prefix}invoke>")):
                yield from reader.expect(f'<{prefix}parameter name="')
                key, _, is_text = (yield from reader.before('">')).partition('" string="')
                text = yield from reader.before(f"</{prefix}parameter>")
                arguments[key] = (
                    text if is_text == "true" else declared.argument(name, key, text.strip("\n"))
                )
                yield from reader.skip_space()
            whole_call(reader, writer, name, arguments)
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
    arguments = {}
    while not (yield from reader.accept("</tool_call>")):
        yield from reader.expect("<arg_key>")
        key = (yield from reader.before("</arg_key>")).strip()
        yield from reader.skip_space()
        yield from reader.expect("<arg_value>")
        text = yield from reader.before("</arg_value>")
        arguments[key] = declared.argument(name, key, text)
        yield from reader.skip_space()
    if not arguments and name not in declared:  # a plain word in tags
        raise Malformed
    whole_call(reader, writer, name, arguments)
