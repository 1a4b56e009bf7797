"""Collects the text and calls that were read of an answer as events.

Whitespace between a channel's text and a thought or call beside it belongs to neither: it is part
of the notation.
"""

from __future__ import annotations

from gguf_worker.chat.output.events import (
    AnswerEvent,
    AnswerText,
    CallArguments,
    CallBegun,
    CallEnded,
)
from gguf_worker.generation import Channel

MAX_SPACE = 256
"""Characters of whitespace that are held back until it is known what follows."""

_BREAK = "\n\n"


class EventWriter:
    """Collects events until they are taken. A call lasts from `begin_call` to `end_call`."""

    def __init__(self) -> None:
        self._events: list[AnswerEvent] = []
        self._parts: list[str] = []
        self._channels = {channel: _ChannelText() for channel in Channel}
        self.in_call = False

    @property
    def blank(self) -> bool:
        """True if nothing but whitespace has been written as content."""
        return self._channels[Channel.CONTENT].blank

    def content(self, text: str) -> None:
        """Write text of the answer itself."""
        self._write(Channel.CONTENT, text)

    def reasoning(self, text: str) -> None:
        """Write text of a thought."""
        self._write(Channel.REASONING, text)

    def separate(self) -> None:
        """Separate the text so far from the text to come: whitespace on either side is dropped."""
        for channel in self._channels.values():
            channel.separate()

    def begin_call(self, name: str, id: str | None) -> None:
        """Begin a call, apart from the text before it."""
        self.separate()
        self.in_call = True
        self._close()
        self._events.append(CallBegun(name, id))

    def arguments(self, text: str) -> None:
        """Write more of the arguments of the call that has begun."""
        self._add(CallArguments(text))

    def end_call(self) -> None:
        """End the call that has begun."""
        self.in_call = False
        self._close()
        self._events.append(CallEnded())

    def end(self) -> None:
        """End the answer: whitespace at the end of its content belongs to it."""
        self._add(AnswerText(Channel.CONTENT, self._channels[Channel.CONTENT].held))

    def take(self) -> list[AnswerEvent]:
        """Return the events since the last `take`."""
        self._close()
        events, self._events = self._events, []
        return events

    def _write(self, channel: Channel, text: str) -> None:
        self._add(AnswerText(channel, self._channels[channel].pass_on(text)))

    def _add(self, event: AnswerText | CallArguments) -> None:
        """Append to the last event if it is of the same kind, else begin a new one."""
        if not event.text:
            return
        last = self._events[-1] if self._events else None
        if not self._continues(last, event):
            self._close()
            self._events.append(event)
        self._parts.append(event.text)

    @staticmethod
    def _continues(last: AnswerEvent | None, event: AnswerText | CallArguments) -> bool:
        if isinstance(last, AnswerText) and isinstance(event, AnswerText):
            return last.channel is event.channel
        return isinstance(last, CallArguments) and isinstance(event, CallArguments)

    def _close(self) -> None:
        """Replace the last event by one with all of its text."""
        if len(self._parts) > 1:
            last, text = self._events[-1], "".join(self._parts)
            self._events[-1] = (
                AnswerText(last.channel, text)
                if isinstance(last, AnswerText)
                else CallArguments(text)
            )
        self._parts.clear()


class _ChannelText:
    """Holds back the whitespace that a channel's text ends with so far."""

    def __init__(self) -> None:
        self.blank = True
        self.held = ""
        self._separated = False

    def separate(self) -> None:
        self.held = ""
        self._separated = True

    def pass_on(self, text: str) -> str:
        """Return the text that is certain; whitespace at its end is held until text follows."""
        if not (self.held or self._separated or text[-1:].isspace()):  # nearly always
            self.blank = self.blank and not text
            return text
        text = self.held + text
        if self._separated:
            text = text.lstrip()
            if not text:
                return ""
            self._separated = False
            if not self.blank:
                text = _BREAK + text
        body = len(text.rstrip())
        self.blank = self.blank and body == 0
        keep = min(len(text) - body, MAX_SPACE)
        self.held = text[len(text) - keep :]
        return text[: len(text) - keep]
