"""Reads JSON while it is still arriving, and passes it on as it is written.

The end of a value is found by its brackets and quotes alone: the text between them is not checked.
"""

from __future__ import annotations

import json
import re
from typing import Any

from gguf_worker.chat.output.answer_reader import AnswerReader, Incremental, Malformed, Sink

_PLAIN = re.compile(r'[^"\\]*')
_OUTSIDE = re.compile(r'[^"{}\[\]]*')
_WORD = re.compile(r"[-+.\w]*")


def value(reader: AnswerReader, sink: Sink) -> Incremental[None]:
    """Read one value of any kind; its text goes to `sink`."""
    first = yield from reader.need()
    if first == '"':
        yield from _quoted(reader, sink)
    elif first in "{[":
        yield from _nested(reader, sink)
    else:
        yield from _word(reader, sink)


def string(reader: AnswerReader) -> Incremental[str]:
    """Read a string and return it decoded."""
    parts: list[str] = []
    if (yield from reader.need()) != '"':
        raise Malformed
    yield from _quoted(reader, parts.append)
    return str(decoded("".join(parts)))


def decoded(text: str) -> Any:
    """Return the value of the JSON `text`; raises Malformed.

    Line breaks inside strings are allowed.
    """
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError) as exc:
        raise Malformed from exc


def _quoted(reader: AnswerReader, sink: Sink) -> Incremental[None]:
    sink(reader.take())
    while True:
        char = yield from reader.need()
        if char == '"':
            sink(reader.take())
            return
        if char == "\\":
            sink(reader.take())
            yield from reader.need()
            sink(reader.take())
        else:
            sink(reader.match(_PLAIN))


def _nested(reader: AnswerReader, sink: Sink) -> Incremental[None]:
    depth = 0
    while True:
        char = yield from reader.need()
        if char == '"':
            yield from _quoted(reader, sink)
        elif char in "{}[]":
            sink(reader.take())
            depth += 1 if char in "{[" else -1
            if depth == 0:
                return
        else:
            sink(reader.match(_OUTSIDE))


def _word(reader: AnswerReader, sink: Sink) -> Incremental[None]:
    """Read a number, true, false or null."""
    word = yield from reader.run(_WORD)
    if not word:
        raise Malformed
    sink(word)
