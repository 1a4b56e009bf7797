"""One answer's text, taken apart as it comes.

The loop that most models' answers follow: a thought, text, calls between marks. Knows no engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gguf_worker.chat.output import calls
from gguf_worker.chat.output.calls import Notation
from gguf_worker.chat.output.declared import Declared
from gguf_worker.chat.output.event_writer import EventWriter
from gguf_worker.chat.output.events import Event
from gguf_worker.chat.output.reader import Marks, Reader, Reading

Answer = Callable[[Reader, EventWriter], Reading[None]]


@dataclass(frozen=True, slots=True)
class Thought:
    """How a model marks its thoughts.

    `anywhere`: also behind other content. Where the marks are plain text a model may be writing about
    them, so there a thought can only begin an answer.
    """

    open: str
    close: str
    anywhere: bool = False

    def known_to(self, template: str) -> bool:
        return self.open in template or self.close in template


class Parser:
    """Events for one answer. What the events say does not depend on how the text is cut.

    Of its marks nothing comes out. What may become one is held back; what only looked like one comes
    out in the end. The time is linear in the text; what is held back is bounded.
    """

    def __init__(self, answer: Answer) -> None:
        self._reader = Reader()
        self._pen = EventWriter()
        self._reading = answer(self._reader, self._pen)
        next(self._reading, None)

    def feed(self, text: str) -> list[Event]:
        """What is certain now that `text` has come."""
        if self._reader.give(text):
            next(self._reading, None)
        return self._pen.taken()

    def flush(self) -> list[Event]:
        """The rest, once the answer has ended. Nothing can be fed after it."""
        self._reader.end()
        next(self._reading, None)
        self._pen.end()
        return self._pen.taken()


def marked(
    thought: Thought,
    notations: Mapping[str, Notation],
    bare: Notation | None,
    declared: Declared,
    thinking: bool,
    formatted: bool,
) -> Answer:
    """The reading of an answer with thoughts, and calls behind marks.

    `bare`: how a call is written that is the whole answer, with no mark. `thinking`: the prompt ends
    inside of a thought. Without tools declared there are no calls, and their marks are content.
    `formatted`: so is every mark behind the beginning of content.
    """
    if not declared:
        notations, bare = {}, None
    marks = Marks({thought.open, *notations})

    def read(reader: Reader, writer: EventWriter) -> Reading[None]:
        if thinking:
            yield from _thought(reader, writer, thought)
        while True:
            if bare is not None and writer.blank:
                yield from _bare(reader, writer, declared, bare)
            mark = yield from reader.until(marks, writer.content)
            if mark is None:
                return
            if formatted and not writer.blank:
                writer.content(mark)
            elif mark != thought.open:
                yield from calls.attempt(reader, writer, declared, mark, notations[mark])
            elif thought.anywhere or writer.blank:
                yield from _thought(reader, writer, thought)
            else:
                writer.content(mark)

    return read


def _thought(reader: Reader, writer: EventWriter, thought: Thought) -> Reading[None]:
    writer.part()
    yield from reader.until(Marks((thought.close,)), writer.reasoning)
    writer.part()


def _bare(
    reader: Reader, writer: EventWriter, declared: Declared, notation: Notation
) -> Reading[None]:
    while (yield from reader.peek()).isspace():
        writer.content(reader.take())
    if (yield from reader.peek()) == "{":
        yield from calls.attempt(reader, writer, declared, "", notation)
