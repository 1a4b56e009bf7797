"""Makes the parts of one answer from the engine's deltas: text by channel, and tool calls with ids.

The notation of thoughts and calls is the parser's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from gguf_worker.chat import AnswerEvent, AnswerParser, AnswerText, CallArguments, CallBegun
from gguf_worker.engine import Delta
from gguf_worker.generation import Channel, TokenLogprob, Usage
from gguf_worker.providers.answer import TextDelta, ToolCallDelta


class AnswerParts:
    """Makes the parts of answer `index`, parsed by `parser`; None: all of its text is content.

    `new_id` makes ids for calls. Tokens and their logprobs go with the next part; a call has no
    field for logprobs, so those of its tokens go with the next text, or with an empty one at the
    end.
    """

    def __init__(
        self,
        index: int,
        parser: AnswerParser | None = None,
        new_id: Callable[[], str] = lambda: "",
    ) -> None:
        self._index = index
        self._parser = parser
        self._new_id = new_id
        self._calls = 0
        self._tokens = 0
        self._logprobs: list[TokenLogprob] = []
        self._usage: Usage | None = None

    def of(self, delta: Delta) -> Iterator[TextDelta | ToolCallDelta]:
        """Yield the parts that are certain after `delta`."""
        if self._parser is None:
            if delta.text or delta.tokens:
                yield TextDelta(
                    delta.text,
                    delta.tokens,
                    self._index,
                    logprobs=delta.logprobs,
                    usage=None if delta.finish else delta.usage,
                )
            return
        if delta.usage is not None and delta.finish is None:
            self._usage = delta.usage
        self._tokens += delta.tokens
        self._logprobs += delta.logprobs
        events = self._parser.feed(delta.text) if delta.text else []
        if delta.finish is not None:
            events += self._parser.flush()
        for event in events:
            yield from self._part(event)
        if delta.finish is not None and (self._tokens or self._logprobs):
            yield self._text_delta("", Channel.CONTENT)

    def reason(self, finish: str) -> str:
        """Return the reason of the end, after all parts: `tool_calls` for a stop after calls."""
        return "tool_calls" if finish == "stop" and self._calls else finish

    def _part(self, event: AnswerEvent) -> Iterator[TextDelta | ToolCallDelta]:
        match event:
            case AnswerText():
                yield self._text_delta(event.text, event.channel)
            case CallBegun():
                call, self._calls = self._calls, self._calls + 1
                id = event.id or self._new_id()
                yield ToolCallDelta(
                    call, "", self._take_tokens(), self._index, id, event.name, self._take_usage()
                )
            case CallArguments():
                tokens = self._take_tokens()
                yield ToolCallDelta(self._calls - 1, event.text, tokens, self._index)

    def _text_delta(self, text: str, channel: Channel) -> TextDelta:
        logprobs, self._logprobs = self._logprobs, []
        return TextDelta(
            text, self._take_tokens(), self._index, channel, tuple(logprobs), self._take_usage()
        )

    def _take_usage(self) -> Usage | None:
        """Return the cost so far, once."""
        usage, self._usage = self._usage, None
        return usage

    def _take_tokens(self) -> int:
        """Return the number of tokens that no part has counted yet."""
        tokens, self._tokens = self._tokens, 0
        return tokens
