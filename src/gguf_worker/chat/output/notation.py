"""The rules that all notations of tool calls share, and the writing of a call that was read.

The reading of a notation begins behind the mark that opens it, and each is a trial. A call is begun
when its name has been read and its arguments come. Where the model breaks off before that, the text
comes out as the content that it was, marks and all. Where it breaks off later, the call is ended
with the arguments that came, and the text after that is content.

Arguments that are JSON are passed on as they come. In the other notations (tags, Python, Gemma's
own) they come as one JSON text at the end of the call.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from gguf_worker.chat.output.answer_reader import AnswerReader, Incremental, Malformed
from gguf_worker.chat.output.declared_tools import DeclaredTools
from gguf_worker.chat.output.event_writer import EventWriter

Notation = Callable[[AnswerReader, EventWriter, DeclaredTools], Incremental[None]]

NAME = re.compile(r"[\w.-]*")
"""Characters that the name of a tool may have."""

_ID = re.compile(r"[\w.:-]{1,128}")
_MAX_NAME = 128


def attempt(
    reader: AnswerReader,
    writer: EventWriter,
    declared: DeclaredTools,
    mark: str,
    notation: Notation,
) -> Incremental[None]:
    """Read calls behind `mark`, which has been read; malformed ones end by the rules above."""
    reader.begin_trial(mark)
    try:
        yield from notation(reader, writer, declared)
    except Malformed:
        if writer.in_call:
            writer.end_call()
        else:
            writer.content(reader.tried)
    finally:
        reader.end_trial()


def no_calls(
    reader: AnswerReader, writer: EventWriter, declared: DeclaredTools
) -> Incremental[None]:
    """Read nothing behind a mark that means nothing to the caller."""
    writer.separate()
    yield from ()


def begin_call(reader: AnswerReader, writer: EventWriter, name: str, id: str | None) -> None:
    """Begin a call, with which the trial has succeeded.

    Raises Malformed where `name` can be no tool's. An `id` that can be none is left out.
    """
    if not 0 < len(name) <= _MAX_NAME or not NAME.fullmatch(name):
        raise Malformed
    reader.end_trial()
    writer.begin_call(name, id if id and _ID.fullmatch(id) else None)


def whole_call(
    reader: AnswerReader, writer: EventWriter, name: str, arguments: Mapping[str, Any]
) -> None:
    """Write a call whose arguments have all been read.

    Raises Malformed where JSON has no words for them.
    """
    try:
        text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError, RecursionError) as exc:
        raise Malformed from exc
    begin_call(reader, writer, name, None)
    writer.arguments(text if encodable(text) else json.dumps(arguments))
    writer.end_call()


def encodable(text: str) -> bool:
    """Can the text be encoded? JSON can escape half of a surrogate pair, which is no character."""
    return not any("\ud800" <= char <= "\udfff" for char in text)


def skip_end(reader: AnswerReader, mark: str) -> Incremental[None]:
    """Read the mark that ends calls, which models forget."""
    yield from reader.skip_space()
    yield from reader.accept(mark)
