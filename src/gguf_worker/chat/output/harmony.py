"""gpt-oss's answers, which are messages with a channel and a recipient each.

`<|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>final<|message|>…`; a call is a
message to `functions.name`, which stands in the channel's part of the header or in the role's.
Source: the template of gpt-oss-120b, and answers that its models are known to give.
"""

from __future__ import annotations

import re

from gguf_worker.chat.output.answer_reader import (
    AnswerReader,
    Incremental,
    Malformed,
    Marks,
    Sink,
)
from gguf_worker.chat.output.declared_tools import DeclaredTools
from gguf_worker.chat.output.event_writer import EventWriter
from gguf_worker.chat.output.notation import without_control
from gguf_worker.generation import Phase, PhaseMark

MAX_HEADER = 256
"""Characters of a message's header; a text without a header is content after so many."""

_HEADED = Marks(("<|message|>",))
_END_MARKS = ("<|end|>", "<|call|>", "<|return|>", "<|start|>", "<|channel|>")
_ENDS = Marks(_END_MARKS)
_CHANNEL = re.compile(r"<\|channel\|>(\w+)")
_RECIPIENT = re.compile(r"to=([^\s<]+)")


def answer(
    reader: AnswerReader, writer: EventWriter, declared: DeclaredTools, thinking: bool
) -> Incremental[None]:
    """Read a whole answer; `thinking`: the prompt ends inside an analysis message."""
    header_start: str | None = ""
    if thinking:
        header_start = _header_start((yield from reader.until(_ENDS, writer.reasoning)))
    while header_start is not None and (header_start or (yield from reader.peek())):
        header = yield from _header(reader, writer, header_start)
        header_start = _header_start((yield from _message(reader, writer, declared, header)))
        writer.separate()


def outline(calls: bool, thinking: bool) -> tuple[tuple[Phase, ...], int]:
    """Return the phases of an answer, and the number of the first one; the arguments are as for
    `Family.whole_outline`."""
    content, header, of_thought, of_call, thought, call = range(6)
    ends = tuple(
        PhaseMark(mark, header if mark in ("<|start|>", "<|channel|>") else content)
        for mark in _END_MARKS
    )
    recipient = (PhaseMark("to=functions.", of_call),) if calls else ()
    # The prompt ends within a header, whose role is written.
    headed = tuple(PhaseMark(mark.text, mark.next, first=True) for mark in recipient)
    begins = PhaseMark("analysis", of_thought)
    again = PhaseMark("<|channel|>", header)
    phases = (
        Phase("content", (*ends, *headed)),
        Phase("other", (begins, *recipient, PhaseMark("<|message|>", content))),
        Phase("other", (again, *recipient, PhaseMark("<|message|>", thought))),
        Phase("other", (PhaseMark("<|message|>", call),)),
        Phase("thought", ends),
        Phase("other", ends),
    )
    return phases, thought if thinking else content


def _header_start(mark: str | None) -> str | None:
    """Return the start of the next header, by the mark that ended a text; None: none follows."""
    return mark if mark is None or mark in ("<|start|>", "<|channel|>") else ""


def _header(reader: AnswerReader, writer: EventWriter, start: str) -> Incremental[str]:
    """Read the header of a message, which begins with `start`.

    Returns "" if there is none; the text that was read is content then.
    """
    parts: list[str] = [start]
    reader.begin_trial(start, MAX_HEADER)
    try:
        yield from reader.until(_HEADED, parts.append)
    except Malformed:
        if not reader.cut:
            writer.content(without_control(reader.tried))
        return ""
    finally:
        reader.end_trial()
    return "".join(parts)


def _message(
    reader: AnswerReader, writer: EventWriter, declared: DeclaredTools, header: str
) -> Incremental[str | None]:
    """Read a message's text; returns the mark that ended it."""
    name = _called(header, declared)
    if name is None:
        thought = _CHANNEL.findall(header)[-1:] == ["analysis"]
        return (yield from reader.until(_ENDS, writer.reasoning if thought else writer.content))
    writer.begin_call(name, None)
    arguments = _MessageArguments(writer.arguments)
    ended = yield from reader.until(_ENDS, arguments)
    if not reader.cut:
        arguments.end()
    writer.end_call()
    return ended


def _called(header: str, declared: DeclaredTools) -> str | None:
    """Return the function or declared tool that a message is addressed to; None: neither."""
    if not declared:
        return None
    for recipient in reversed(_RECIPIENT.findall(header)):
        if recipient.startswith("functions.") or recipient in declared:
            return str(recipient).removeprefix("functions.")
    return None


class _MessageArguments:
    """Passes a message's text on as arguments; a blank one is an empty object."""

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
