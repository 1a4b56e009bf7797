"""Writes down what was read of an answer, as events.

Whitespace between a channel's text and a thought or call beside it is nobody's: models write it to be
read by models. Knows no model's format.
"""

from __future__ import annotations

from gguf_worker.chat.output.events import CallArguments, CallBegun, CallEnded, Event, Text
from gguf_worker.generation import Channel

MAX_SPACE = 256
"""Characters of whitespace that are held back until it is known what follows."""

_BREAK = "\n\n"


class EventWriter:
    """The events since they were last taken. A call is in the answer from `begin_call` to `end_call`."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._parts: list[str] = []
        self._channels = {channel: _Channel() for channel in Channel}
        self.calling = False

    @property
    def blank(self) -> bool:
        """Has nothing but whitespace been written as content?"""
        return self._channels[Channel.CONTENT].blank

    def content(self, text: str) -> None:
        self._say(Channel.CONTENT, text)

    def reasoning(self, text: str) -> None:
        self._say(Channel.REASONING, text)

    def part(self) -> None:
        """What comes next is apart from what there is: whitespace on either side of here is dropped."""
        for channel in self._channels.values():
            channel.part()

    def begin_call(self, name: str, id: str | None) -> None:
        self.part()
        self.calling = True
        self._close()
        self._events.append(CallBegun(name, id))

    def arguments(self, text: str) -> None:
        self._add(CallArguments(text))

    def end_call(self) -> None:
        self.calling = False
        self._close()
        self._events.append(CallEnded())

    def end(self) -> None:
        """The answer is over: whitespace that ends its content belongs to it."""
        self._add(Text(Channel.CONTENT, self._channels[Channel.CONTENT].held))

    def taken(self) -> list[Event]:
        """The events since this was last asked."""
        self._close()
        events, self._events = self._events, []
        return events

    def _say(self, channel: Channel, text: str) -> None:
        self._add(Text(channel, self._channels[channel].pass_on(text)))

    def _add(self, event: Text | CallArguments) -> None:
        """Appended to the last event where that is of the same kind."""
        if not event.text:
            return
        last = self._events[-1] if self._events else None
        if not self._continues(last, event):
            self._close()
            self._events.append(event)
        self._parts.append(event.text)

    @staticmethod
    def _continues(last: Event | None, event: Text | CallArguments) -> bool:
        if isinstance(last, Text) and isinstance(event, Text):
            return last.channel is event.channel
        return isinstance(last, CallArguments) and isinstance(event, CallArguments)

    def _close(self) -> None:
        """The last event gets all of its text."""
        if len(self._parts) > 1:
            last, text = self._events[-1], "".join(self._parts)
            self._events[-1] = (
                Text(last.channel, text) if isinstance(last, Text) else CallArguments(text)
            )
        self._parts.clear()


class _Channel:
    """Holds back the whitespace that a channel's text ends with so far."""

    def __init__(self) -> None:
        self.blank = True
        self.held = ""
        self._parted = False

    def part(self) -> None:
        self.held = ""
        self._parted = True

    def pass_on(self, text: str) -> str:
        """What can be told of all that has come."""
        if not (self.held or self._parted or text[-1:].isspace()):  # nearly always
            self.blank = self.blank and not text
            return text
        text = self.held + text
        if self._parted:
            text = text.lstrip()
            if not text:
                return ""
            self._parted = False
            if not self.blank:
                text = _BREAK + text
        body = len(text.rstrip())
        self.blank = self.blank and body == 0
        keep = min(len(text) - body, MAX_SPACE)
        self.held = text[len(text) - keep :]
        return text[: len(text) - keep]
