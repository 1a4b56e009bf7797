"""From the deltas of one answer to its parts: text by channel, tool calls with ids, and why it ended.

How models write thoughts and calls is known to the reading that it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from gguf_worker.chat import CallArguments, CallBegun, Event, Text
from gguf_worker.engine import Delta
from gguf_worker.generation import Channel, TokenLogprob
from gguf_worker.providers.answer import TextDelta, ToolCallDelta


class Reading(Protocol):
    """Takes an answer's text apart; see `channels`."""

    def feed(self, text: str) -> list[Event]: ...

    def flush(self) -> list[Event]: ...


class AnswerParts:
    """Answer `index`, read by `reading`; None: its text is its content. `new_id` names calls.

    Tokens and their logprobs come with the first part that is told after them; a call has no place for
    logprobs, so those of its tokens come with the next text, or an empty one at the end.
    """

    def __init__(
        self,
        index: int,
        reading: Reading | None = None,
        new_id: Callable[[], str] = lambda: "",
    ) -> None:
        self._index = index
        self._reading = reading
        self._new_id = new_id
        self._calls = 0
        self._tokens = 0
        self._logprobs: list[TokenLogprob] = []

    def of(self, delta: Delta) -> Iterator[TextDelta | ToolCallDelta]:
        """The parts that `delta` makes certain."""
        if self._reading is None:
            if delta.text or delta.tokens:
                yield TextDelta(delta.text, delta.tokens, self._index, logprobs=delta.logprobs)
            return
        self._tokens += delta.tokens
        self._logprobs += delta.logprobs
        events = self._reading.feed(delta.text) if delta.text else []
        if delta.finish is not None:
            events += self._reading.flush()
        for event in events:
            yield from self._part(event)
        if delta.finish is not None and (self._tokens or self._logprobs):
            yield self._piece("", Channel.CONTENT)

    def reason(self, finish: str) -> str:
        """Why it ended, once all parts are told: whoever called a tool waits for what it says."""
        return "tool_calls" if finish == "stop" and self._calls else finish

    def _part(self, event: Event) -> Iterator[TextDelta | ToolCallDelta]:
        match event:
            case Text():
                yield self._piece(event.text, event.channel)
            case CallBegun():
                call, self._calls = self._calls, self._calls + 1
                id = event.id or self._new_id()
                yield ToolCallDelta(call, "", self._spent(), self._index, id, event.name)
            case CallArguments():
                yield ToolCallDelta(self._calls - 1, event.text, self._spent(), self._index)

    def _piece(self, text: str, channel: Channel) -> TextDelta:
        logprobs, self._logprobs = self._logprobs, []
        return TextDelta(text, self._spent(), self._index, channel, tuple(logprobs))

    def _spent(self) -> int:
        """The tokens that nobody has been told of yet."""
        tokens, self._tokens = self._tokens, 0
        return tokens
