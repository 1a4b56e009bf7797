"""Notations with JSON arguments: objects that hold a name, and JSON after a name between marks."""

from __future__ import annotations

from dataclasses import dataclass

from gguf_worker.chat.output import json_text
from gguf_worker.chat.output.answer_reader import AnswerReader, Incremental, Malformed
from gguf_worker.chat.output.declared_tools import DeclaredTools
from gguf_worker.chat.output.event_writer import EventWriter
from gguf_worker.chat.output.notation import NAME, Notation, begin_call, encodable, skip_end


@dataclass(frozen=True, slots=True)
class _CallKeys:
    """The keys of a call's object. `strict`: no others are allowed but `type`."""

    name: str = "name"
    arguments: tuple[str, ...] = ("arguments", "parameters")
    id: str | None = "id"
    strict: bool = False


_USUAL = _CallKeys()
_LLAMA = _CallKeys(strict=True)
_COMMAND_R = _CallKeys(name="tool_name", id=None)  # its ids count from 0 in every answer


def unmarked(
    reader: AnswerReader, writer: EventWriter, declared: DeclaredTools
) -> Incremental[None]:
    """Read Llama 3's `{"name": …, "parameters": …}`, an answer that no mark shows to be a call.

    It is a call only if it names a declared tool and has no other fields. More calls may follow
    after semicolons.
    """
    while True:
        yield from _object(reader, writer, _LLAMA, declared)
        yield from reader.skip_space()
        if (yield from reader.accept(";")):
            yield from reader.skip_space()
        if (yield from reader.peek()) != "{":
            return
        reader.begin_trial()


def list_until(end: str) -> Notation:
    """Return the notation of a JSON list of calls, or calls alone, up to `end`.

    Granite 3, Phi-4-mini, Nemotron Nano 2 and Apriel write it.
    """

    def read(
        reader: AnswerReader, writer: EventWriter, declared: DeclaredTools
    ) -> Incremental[None]:
        yield from reader.skip_space()
        yield from list_or_objects(reader, writer)
        yield from skip_end(reader, end)

    return read


def command_r(
    reader: AnswerReader, writer: EventWriter, declared: DeclaredTools
) -> Incremental[None]:
    """Read Command R7B's calls after `<|START_ACTION|>`: a JSON list with keys of its own."""
    yield from reader.skip_space()
    yield from list_or_objects(reader, writer, _COMMAND_R)
    yield from skip_end(reader, "<|END_ACTION|>")


def mistral(
    reader: AnswerReader, writer: EventWriter, declared: DeclaredTools
) -> Incremental[None]:
    """Read Mistral's calls after `[TOOL_CALLS]`: a JSON list (to v7), or `name[ARGS]{…}`.

    Small 3.2 and later have a `[CALL_ID]` after the name.
    """
    yield from reader.skip_space()
    if (yield from reader.need()) in "[{":
        yield from list_or_objects(reader, writer)
        return
    name = yield from reader.run(NAME)
    yield from reader.skip_space()
    id = None
    if (yield from reader.accept("[CALL_ID]")):
        id = yield from reader.run(NAME)
    yield from reader.accept("[ARGS]")
    yield from reader.skip_space()
    yield from named_call(reader, writer, name, id)


def deepseek(
    reader: AnswerReader, writer: EventWriter, declared: DeclaredTools
) -> Incremental[None]:
    """Read DeepSeek's calls after `<｜tool▁calls▁begin｜>`.

    If the model left that mark out, they are read after the first call's own. R1 and V3 name the
    kind, then the function, and fence the JSON; V3.1 has the name and bare JSON.
    """
    yield from reader.skip_space()
    yield from reader.accept("<｜tool▁call▁begin｜>")
    while True:
        name = (yield from reader.before("<｜tool▁sep｜>")).strip()
        yield from reader.skip_space()
        fenced = (yield from reader.need()) != "{"
        if fenced:
            name = (yield from reader.before("```json")).strip()
            yield from reader.skip_space()
        yield from named_call(reader, writer, name)
        if fenced:
            yield from skip_end(reader, "```")
        yield from skip_end(reader, "<｜tool▁call▁end｜>")
        yield from reader.skip_space()
        if (yield from reader.accept("<｜tool▁calls▁end｜>")):
            return
        if not (yield from reader.accept("<｜tool▁call▁begin｜>")):
            return
        reader.begin_trial("<｜tool▁call▁begin｜>")


def kimi(reader: AnswerReader, writer: EventWriter, declared: DeclaredTools) -> Incremental[None]:
    """Read Kimi K2's calls after `<|tool_calls_section_begin|>`.

    Each has an id such as `functions.name:0`, then JSON.
    """
    yield from reader.skip_space()
    yield from reader.expect("<|tool_call_begin|>")
    while True:
        id = (yield from reader.before("<|tool_call_argument_begin|>")).strip()
        yield from reader.skip_space()
        name = id.removeprefix("functions.").partition(":")[0]
        yield from named_call(reader, writer, name, id)
        yield from skip_end(reader, "<|tool_call_end|>")
        yield from reader.skip_space()
        if (yield from reader.accept("<|tool_calls_section_end|>")):
            return
        if not (yield from reader.accept("<|tool_call_begin|>")):
            return
        reader.begin_trial("<|tool_call_begin|>")


def list_or_objects(
    reader: AnswerReader, writer: EventWriter, keys: _CallKeys = _USUAL
) -> Incremental[None]:
    """Read a JSON list of calls, or calls one after the other."""
    if (yield from reader.accept("[")):
        yield from rest_of_list(reader, writer, keys)
    else:
        yield from objects(reader, writer, keys)


def rest_of_list(
    reader: AnswerReader, writer: EventWriter, keys: _CallKeys = _USUAL
) -> Incremental[None]:
    """Read a JSON list of calls after its bracket."""
    while True:
        yield from reader.skip_space()
        yield from _object(reader, writer, keys)
        yield from reader.skip_space()
        if not (yield from reader.accept(",")):
            break
        reader.begin_trial()
    yield from reader.accept("]")


def objects(
    reader: AnswerReader, writer: EventWriter, keys: _CallKeys = _USUAL
) -> Incremental[None]:
    """Read calls as JSON objects, one after the other."""
    while True:
        yield from _object(reader, writer, keys)
        yield from reader.skip_space()
        if (yield from reader.peek()) != "{":
            return
        reader.begin_trial()


def named_call(
    reader: AnswerReader, writer: EventWriter, name: str, id: str | None = None
) -> Incremental[None]:
    """Read the arguments, a JSON object, of a call whose name is known."""
    if (yield from reader.need()) != "{":
        raise Malformed
    begin_call(reader, writer, name, id)
    yield from _arguments(reader, writer)
    writer.end_call()


def _object(
    reader: AnswerReader,
    writer: EventWriter,
    keys: _CallKeys,
    declared: DeclaredTools | None = None,
) -> Incremental[None]:
    """Read a call as a JSON object, its fields in any order; if given, `declared` has its tool."""
    name: str | None = None
    id: str | None = None
    arguments: list[str] = []
    yield from reader.expect("{")
    yield from reader.skip_space()
    ended = yield from reader.accept("}")
    while not ended:
        key = yield from json_text.string(reader)
        yield from reader.skip_space()
        yield from reader.expect(":")
        yield from reader.skip_space()
        if key == keys.name and name is None:
            name = yield from json_text.string(reader)
            if declared is not None and name not in declared:
                raise Malformed
        elif key in keys.arguments and name is not None and not writer.in_call:
            begin_call(reader, writer, name, id)
            yield from _arguments(reader, writer)
        elif key in keys.arguments and not writer.in_call:
            yield from json_text.value(reader, arguments.append)
        elif key == keys.id:
            id = yield from _text_or_none(reader)
        elif keys.strict and key != "type":
            raise Malformed
        else:
            yield from json_text.value(reader, _ignore)
        yield from reader.skip_space()
        ended = yield from reader.accept("}")
        if not ended:
            yield from reader.expect(",")
            yield from reader.skip_space()
    if not writer.in_call:
        begin_call(reader, writer, name or "", id)
        writer.arguments(_as_object("".join(arguments)))
    writer.end_call()


def _arguments(reader: AnswerReader, writer: EventWriter) -> Incremental[None]:
    """Pass an object on as it arrives; any other value is read to its end first."""
    if (yield from reader.need()) == "{":
        yield from json_text.value(reader, writer.arguments)
        return
    parts: list[str] = []
    yield from json_text.value(reader, parts.append)
    writer.arguments(_as_object("".join(parts)))


def _as_object(text: str) -> str:
    """Return the JSON of an object for null, and for an object inside a JSON string.

    OpenAI's clients expect an object. Other values stay as they are.
    """
    if text in ("", "null", '""'):
        return "{}"
    if text.startswith('"'):
        decoded = str(json_text.decoded(text))
        return decoded if decoded.lstrip().startswith("{") and encodable(decoded) else text
    return text


def _text_or_none(reader: AnswerReader) -> Incremental[str | None]:
    parts: list[str] = []
    yield from json_text.value(reader, parts.append)
    value = json_text.decoded("".join(parts))
    return value if isinstance(value, str) else None


def _ignore(text: str) -> None:
    """Drop a field that no caller asks for."""
