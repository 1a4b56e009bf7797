"""Makes the parts of one answer from the engine's deltas: text by channel, and tool calls with ids.

The notation of thoughts and calls is the parser's business.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from gguf_worker.chat import (
    AnswerEvent,
    AnswerParser,
    AnswerText,
    CallArguments,
    CallBegun,
    CallEnded,
)
from gguf_worker.engine import Delta
from gguf_worker.generation import Channel, TokenLogprob, Usage
from gguf_worker.providers.answer import TextDelta, ToolCallDelta
from gguf_worker.providers.local.custom_input import CustomInput

_MOST_NAMES = 16
_LONGEST_NAME = 64


@dataclass(frozen=True, slots=True)
class CallRules:
    """The rules of an answer's calls.

    `original` returns the caller's name for a function, and if it is a custom tool; `new_id` makes
    ids. `most`: further calls are left out.
    """

    original: Callable[[str], tuple[str, bool]] = lambda name: (name, False)
    new_id: Callable[[], str] = lambda: ""
    most: int | None = None


_NO_RULES = CallRules()


class AnswerParts:
    """Makes the parts of answer `index`, parsed by `parser`; None: all of its text is content.

    `called` has the rules of its calls. Tokens and their logprobs go with the next part; those of
    marks and calls before a text have no logprobs, and those of a last call, or of a character that
    was cut off, come with an empty text at the end.
    """

    def __init__(
        self,
        index: int,
        parser: AnswerParser | None = None,
        called: CallRules = _NO_RULES,
    ) -> None:
        self._index = index
        self._parser = parser
        self._rules = called
        self._calls = 0
        self._left_out: Counter[str] = Counter()
        self._open = False
        self._channel = Channel.CONTENT
        self._input: CustomInput | None = None
        self._tokens = 0
        self._logprobs: list[TokenLogprob] = []
        self._usage: Usage | None = None

    def of(self, delta: Delta) -> Iterator[TextDelta | ToolCallDelta]:
        """Yield the parts that are certain after `delta`."""
        if delta.prompt_logprobs:
            yield TextDelta("", 0, self._index, prompt_logprobs=delta.prompt_logprobs)
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
            events += self._parser.flush(cut=delta.finish == "length")
        for event in events:
            yield from self._part(event)
        if delta.finish is not None and (self._tokens or self._logprobs):
            yield self._text_delta("", self._channel)

    def reason(self, finish: str) -> str:
        """Return the reason of the end, after all parts: `tool_calls` for a stop after calls."""
        return "tool_calls" if finish == "stop" and self._calls else finish

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences about calls that were left out, in words that the caller sent."""
        most = self._rules.most
        may = f"{most} may be called" if most else "none may be called"
        names = list(self._left_out)[:_MOST_NAMES]
        return tuple(
            f"the model called {name[:_LONGEST_NAME]!r}, which was left out: {may}"
            for name in names
        )

    def _part(self, event: AnswerEvent) -> Iterator[TextDelta | ToolCallDelta]:
        match event:
            case AnswerText():
                self._channel = event.channel
                yield self._text_delta(event.text, event.channel)
            case CallBegun():
                yield from self._begun(event)
            case CallArguments() if self._open:
                text = event.text if self._input is None else self._input.feed(event.text)
                if text:
                    yield self._more(text)
            case CallEnded() if self._open:
                if self._input is not None and (rest := self._input.end()):
                    yield self._more(rest)
                self._open = False

    def _begun(self, event: CallBegun) -> Iterator[ToolCallDelta]:
        name, custom = self._rules.original(event.name)
        self._channel = Channel.CONTENT
        if self._rules.most is not None and self._calls >= self._rules.most:
            self._left_out[name] += 1
            return
        call, self._calls = self._calls, self._calls + 1
        self._open, self._input = True, CustomInput() if custom else None
        id = event.id or self._rules.new_id()
        tokens, usage = self._take_tokens(), self._take_usage()
        yield ToolCallDelta(call, "", tokens, self._index, id, name, custom, usage)

    def _more(self, text: str) -> ToolCallDelta:
        custom = self._input is not None
        tokens = self._take_tokens()
        return ToolCallDelta(self._calls - 1, text, tokens, self._index, custom=custom)

    def _text_delta(self, text: str, channel: Channel) -> TextDelta:
        logprobs, self._logprobs = self._logprobs, []
        return TextDelta(
            text,
            self._take_tokens(),
            self._index,
            channel,
            tuple(_of_text(logprobs, text)),
            usage=self._take_usage(),
        )

    def _take_usage(self) -> Usage | None:
        """Return the cost so far, once."""
        usage, self._usage = self._usage, None
        return usage

    def _take_tokens(self) -> int:
        """Return the number of tokens that no part has counted yet."""
        tokens, self._tokens = self._tokens, 0
        return tokens


def _of_text(logprobs: list[TokenLogprob], text: str) -> list[TokenLogprob]:
    """Return the logprobs of the tokens that `text` is made of, without those of marks before it.

    A text that does not begin the tokens is their last such one: marks and calls before it may have
    it too. All are returned if the text is not that of the tokens.
    """
    said, wanted = b"".join(each.piece for each in logprobs), text.encode()
    begin, end = 0 if said.startswith(wanted) else said.rfind(wanted), 0
    for number, each in enumerate(logprobs):
        end += len(each.piece)
        if end > begin:
            return logprobs[number:]
    return logprobs
