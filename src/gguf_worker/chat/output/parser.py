"""Parses one answer's text into events as it arrives.

Most models' answers follow one loop: a thought, text, calls between marks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gguf_worker.chat.output.answer_reader import AnswerReader, Incremental, Marks
from gguf_worker.chat.output.declared_tools import DeclaredTools
from gguf_worker.chat.output.event_writer import EventWriter
from gguf_worker.chat.output.events import AnswerEvent
from gguf_worker.chat.output.notation import Notation, attempt

AnswerReading = Callable[[AnswerReader, EventWriter], Incremental[None]]
"""Reads one answer from its beginning to its end."""


@dataclass(frozen=True, slots=True)
class Thought:
    """The marks that a model sets around its thoughts.

    `anywhere`: a thought may also come after other content. If the marks are plain text, a model
    may be writing about them, so a thought can only begin an answer.
    """

    open: str
    close: str
    anywhere: bool = False
    blank: str = "\n\n"
    """The text of an empty thought, as templates write it; also what follows its marks, if these
    are plain text."""

    @property
    def empty(self) -> str:
        """An empty thought, by which a prompt has a model answer at once."""
        return f"{self.open}{self.blank}{self.ending}"

    @property
    def ending(self) -> str:
        """The text that ends a thought in a prompt."""
        return self.close if self.anywhere else f"{self.close}{self.blank}"

    def known_to(self, template: str) -> bool:
        """Tell whether the text of a chat template names one of the marks."""
        return self.open in template or self.close in template


class AnswerParser:
    """Makes events of one answer's text, the same events however it comes; `calls`: it has some.

    Marks are not part of the events. Text that may become a mark is held back, and released if it
    does not. The time is linear in the text, and the text held back is bounded.
    """

    def __init__(self, reading: AnswerReading, *, calls: bool) -> None:
        self._calls = calls
        self._reader = AnswerReader()
        self._writer = EventWriter()
        self._steps = reading(self._reader, self._writer)
        next(self._steps, None)

    def feed(self, text: str) -> list[AnswerEvent]:
        """Return the events that are certain after `text`."""
        if self._reader.feed(text):
            next(self._steps, None)
        return self._writer.take()

    def flush(self, *, cut: bool = False) -> list[AnswerEvent]:
        """Return the last events, at the end of the answer. Nothing can be fed after it.

        `cut`: the model would have gone on. Then the beginning of a call is no content.
        """
        self._reader.end(cut=cut and self._calls)
        next(self._steps, None)
        self._writer.end()
        return self._writer.take()


def marked_answer(
    thought: Thought,
    notations: Mapping[str, Notation],
    unmarked: Notation | None,
    declared: DeclaredTools,
    *,
    thinking: bool,
    formatted: bool,
) -> AnswerReading:
    """Return the reading of an answer with thoughts, and with calls after marks.

    `notations` are keyed by their opening marks; `unmarked` reads calls that are the whole answer,
    with no mark. `thinking`: the prompt ends inside a thought. `formatted`: once content has begun,
    every mark is content. Without declared tools there are no calls without a mark.
    """
    if not declared:
        unmarked = None
    marks = Marks({thought.open, *notations})

    def read(reader: AnswerReader, writer: EventWriter) -> Incremental[None]:
        if thinking:
            yield from _thought(reader, writer, thought)
        while True:
            if unmarked is not None and writer.blank:
                yield from _unmarked(reader, writer, declared, unmarked)
            mark = yield from reader.until(marks, writer.content)
            if mark is None:
                return
            if formatted and not writer.blank:
                writer.content(mark)
            elif mark != thought.open:
                yield from attempt(reader, writer, declared, mark, notations[mark])
            elif thought.anywhere or writer.blank:
                yield from _thought(reader, writer, thought)
            else:
                writer.content(mark)

    return read


def _thought(reader: AnswerReader, writer: EventWriter, thought: Thought) -> Incremental[None]:
    writer.separate()
    yield from reader.until(Marks((thought.close,)), writer.reasoning)
    writer.separate()


def _unmarked(
    reader: AnswerReader, writer: EventWriter, declared: DeclaredTools, notation: Notation
) -> Incremental[None]:
    while (yield from reader.peek()).isspace():
        writer.content(reader.take())
    if (yield from reader.peek()) in ("{", "["):
        yield from attempt(reader, writer, declared, "", notation)
