"""The rules that all notations of tool calls share, and the writing of a call that was read.

A notation is read after the mark that opens it, as a trial. A call begins when its name has been
read and its arguments follow. If the text is malformed before that, it becomes content: marks that
are plain text are included, since a model may be writing about them; special tokens are not. If it
is malformed later, the call ends with the arguments that were read, and the text after them is
content. If the text is cut before that, it becomes nothing: nobody can say what it would have been.

Arguments that are JSON are passed on as they arrive; those in tags one by one, as JSON. Python and
Gemma's own notation come as one JSON text at the end of the call.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from gguf_worker.chat.output.answer_reader import AnswerReader, Incremental, Malformed
from gguf_worker.chat.output.declared_tools import DeclaredTools
from gguf_worker.chat.output.event_writer import EventWriter

Notation = Callable[[AnswerReader, EventWriter, DeclaredTools], Incremental[None]]

NAME = re.compile(r"[\w.-]*")
"""Characters that the name of a tool may have."""

CALL_ENDS: Mapping[str, str] = {
    "<tool_call>": "</tool_call>",
    "<|tool_call>": "<tool_call|>",
    "<start_function_call>": "<end_function_call>",
    "<｜tool▁calls▁begin｜>": "<｜tool▁calls▁end｜>",
    "<｜tool▁call▁begin｜>": "<｜tool▁call▁end｜>",
    "<｜DSML｜function_calls>": "</｜DSML｜function_calls>",
    "<｜DSML｜tool_calls>": "</｜DSML｜tool_calls>",
    "<minimax:tool_call>": "</minimax:tool_call>",
    "<|tool_calls_section_begin|>": "<|tool_calls_section_end|>",
    "<|START_ACTION|>": "<|END_ACTION|>",
    "<|tool_call_start|>": "<|tool_call_end|>",
    "<seed:tool_call>": "</seed:tool_call>",
    "<function=": "</function>",
    "<tool_calls>": "</tool_calls>",
    "<|tool_call|>": "<|/tool_call|>",
    "<|python_start|>": "<|python_end|>",
    "<TOOLCALL>": "</TOOLCALL>",
    "```tool_code": "```",
}
"""The marks that end what another mark begins. After any other mark the rest of the answer counts
as calls, where stop strings are not looked for."""

_CONTROL = re.compile(r"</?[|｜][^<>]+>|<[^<>|｜\s]+[|｜]>|\[/?[A-Z_]{2,}\]")
"""Marks that look like special tokens, in the way of all vocabularies that have some for calls."""
_ID = re.compile(r"[\w.:-]{1,128}")
_MAX_NAME = 128
_LONGEST_BEGIN = 17
"""The length to which marks are cut: there may be hundreds of tools, whose names are long."""


def unmarked_begins(names: Iterable[str]) -> Sequence[str]:
    """Return the beginnings of an answer that is a call, without a mark, of a tool of these names.

    None begins with another one.
    """
    lists = dict.fromkeys(f"[{name}("[:_LONGEST_BEGIN] for name in names)
    return ('{"name"', '{"type"', *lists)


def attempt(
    reader: AnswerReader,
    writer: EventWriter,
    declared: DeclaredTools,
    mark: str,
    notation: Notation,
) -> Incremental[None]:
    """Read calls after `mark`, which has been read; malformed ones end by the rules above."""
    reader.begin_trial(mark)
    try:
        yield from notation(reader, writer, declared)
    except Malformed:
        if writer.in_call:
            writer.end_call()
        elif not reader.cut:
            writer.content(without_control(reader.tried))
    finally:
        reader.end_trial()


def no_calls(
    reader: AnswerReader, writer: EventWriter, declared: DeclaredTools
) -> Incremental[None]:
    """Read nothing: the mark means nothing to the caller, and is dropped."""
    writer.separate()
    yield from ()


def begin_call(reader: AnswerReader, writer: EventWriter, name: str, id: str | None) -> None:
    """Begin a call, and end the trial as a success.

    Raises Malformed if `name` cannot be a tool's. An invalid `id` is left out.
    """
    if not 0 < len(name) <= _MAX_NAME or not NAME.fullmatch(name):
        raise Malformed
    reader.end_trial()
    writer.begin_call(name, id if id and _ID.fullmatch(id) else None)


def whole_call(
    reader: AnswerReader, writer: EventWriter, name: str, arguments: Mapping[str, Any]
) -> None:
    """Write a call whose arguments have all been read.

    Raises Malformed if JSON cannot represent them.
    """
    try:
        text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError, RecursionError) as exc:
        raise Malformed from exc
    begin_call(reader, writer, name, None)
    writer.arguments(text if encodable(text) else json.dumps(arguments))
    writer.end_call()


def begin_cut_call(reader: AnswerReader, writer: EventWriter, name: str) -> None:
    """Begin a call whose arguments were cut, and cannot be told; it is left without an end."""
    begin_call(reader, writer, name, None)
    writer.arguments("{")


def is_control(mark: str) -> bool:
    """Tell if a mark looks like a special token, which no text has by chance."""
    return _CONTROL.fullmatch(mark) is not None


def without_control(text: str) -> str:
    """Return a text that is no call after all, without marks that look like special tokens."""
    return _CONTROL.sub("", text)


def encodable(text: str) -> bool:
    """Tell if the text can be encoded: JSON can escape half a surrogate pair, no character."""
    return not any("\ud800" <= char <= "\udfff" for char in text)


def skip_end(reader: AnswerReader, mark: str) -> Incremental[None]:
    """Read the mark that ends calls, if it is there: models forget it."""
    yield from reader.skip_space()
    yield from reader.accept(mark)
