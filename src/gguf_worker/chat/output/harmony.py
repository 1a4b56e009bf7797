"""gpt-oss's answers, which are messages with a channel and a recipient each.

`<|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>final<|message|>…`; a call is a message
to `functions.name`, which stands in the channel's part of the header or in the role's. Read from the
template of gpt-oss-120b and from what its models are known to write.
"""

from __future__ import annotations

import re

from gguf_worker.chat.output.declared import Declared
from gguf_worker.chat.output.event_writer import EventWriter
from gguf_worker.chat.output.reader import Malformed, Marks, Reader, Reading, Sink

MAX_HEADER = 256
"""Characters before a message's text; an answer without a header is content after so many."""

_HEADED = Marks(("<|message|>",))
_ENDS = Marks(("<|end|>", "<|call|>", "<|return|>", "<|start|>", "<|channel|>"))
_CHANNEL = re.compile(r"<\|channel\|>(\w+)")
_RECIPIENT = re.compile(r"to=([^\s<]+)")


def answer(
    reader: Reader, writer: EventWriter, declared: Declared, thinking: bool
) -> Reading[None]:
    """A whole answer; `thinking`: the prompt ends inside of an analysis message."""
    opening: str | None = ""
    if thinking:
        opening = _opening((yield from reader.until(_ENDS, writer.reasoning)))
    while opening is not None and (opening or (yield from reader.peek())):
        header = yield from _header(reader, writer, opening)
        opening = _opening((yield from _message(reader, writer, declared, header)))
        writer.part()


def _opening(mark: str | None) -> str | None:
    """What the next header begins with, behind the mark that ended a text; None: nothing follows."""
    return mark if mark is None or mark in ("<|start|>", "<|channel|>") else ""


def _header(reader: Reader, writer: EventWriter, opening: str) -> Reading[str]:
    """What stands before a message's text; "" where nothing does, and what was tried is content."""
    parts: list[str] = [opening]
    reader.begin(opening, MAX_HEADER)
    try:
        yield from reader.until(_HEADED, parts.append)
    except Malformed:
        writer.content(reader.tried)
        return ""
    finally:
        reader.keep()
    return "".join(parts)


def _message(
    reader: Reader, writer: EventWriter, declared: Declared, header: str
) -> Reading[str | None]:
    """A message's text; returns the mark that ended it."""
    name = _called(header, declared)
    if name is None:
        thought = _CHANNEL.findall(header)[-1:] == ["analysis"]
        return (yield from reader.until(_ENDS, writer.reasoning if thought else writer.content))
    writer.begin_call(name, None)
    arguments = _Arguments(writer.arguments)
    ended = yield from reader.until(_ENDS, arguments)
    arguments.end()
    writer.end_call()
    return ended


def _called(header: str, declared: Declared) -> str | None:
    """The tool that a message is to; None: it is to the reader, or to a tool that nobody declared."""
    if not declared:
        return None
    for recipient in reversed(_RECIPIENT.findall(header)):
        if recipient.startswith("functions.") or recipient in declared:
            return str(recipient).removeprefix("functions.")
    return None


class _Arguments:
    """Passes a message's text on as arguments: none written are an empty object."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._blank = True

    def __call__(self, text: str) -> None:
        self._blank = self._blank and not text.strip()
        if not self._blank:
            self._sink(text)

    def end(self) -> None:
        if self._blank:
            self._sink("{}")
