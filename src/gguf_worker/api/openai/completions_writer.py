"""The writer of completions."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from gguf_worker.api.openai.choice_stream import ChoiceStream, ObjectName, whole_object
from gguf_worker.api.reading import GenerationCall
from gguf_worker.api.writing import (
    CollectedAnswer,
    Heading,
    ResponseWriter,
    WholeWriter,
    shown_logprob,
    shown_token,
    stop_reason,
)
from gguf_worker.generation import TokenLogprob, Usage
from gguf_worker.providers import Ended, Finish, TextDelta, ToolCallDelta

_NAME = ObjectName("text_completion", "cmpl")


def completion_writer(heading: Heading, call: GenerationCall) -> ResponseWriter:
    """Return the writer of the form that the caller asked for."""
    answers, logprobs = call.request.answers, call.request.logprobs is not None
    if not call.stream:
        return WholeWriter(heading, _object, answers, logprobs)
    choices = CompletionChoices(logprobs)
    return ChoiceStream(heading, _NAME, choices, answers=answers, include_usage=call.include_usage)


class CompletionChoices:
    """The choices of a streamed completion. Token offsets continue from choice to choice."""

    def __init__(self, logprobs: bool) -> None:
        self._logprobs = logprobs
        self._offsets: dict[int, int] = {}

    def opening(self, index: int) -> None:
        return None

    def text(self, delta: TextDelta) -> dict[str, Any]:
        if not self._logprobs:
            return _choice(delta.index, delta.text, None)
        start = self._offsets.get(delta.index, 0)
        logprobs, self._offsets[delta.index] = completion_logprobs(delta.logprobs, start)
        return _choice(delta.index, delta.text, None, logprobs)

    def tool_call(self, delta: ToolCallDelta) -> dict[str, Any]:
        raise RuntimeError("a completion has no tools to call")

    def end(self, end: Ended | Finish) -> dict[str, Any]:
        return _choice(end.index, "", end.reason)


def completion_logprobs(logprobs: Sequence[TokenLogprob], start: int) -> tuple[dict[str, Any], int]:
    """Return a completion's logprobs as parallel lists, and the offset of the next token.

    Offsets are characters of the answer; the first token's is `start`.
    """
    tokens = [shown_token(each.piece) for each in logprobs]
    offsets = list(itertools.accumulate(map(len, tokens), initial=start))
    tops = [
        {shown_token(piece): shown_logprob(logprob) for _, piece, logprob in each.top}
        for each in logprobs
    ]
    lists = {
        "tokens": tokens,
        "token_logprobs": [shown_logprob(each.logprob) for each in logprobs],
        "top_logprobs": tops,
        "text_offset": offsets[:-1],
    }
    return lists, offsets[-1]


def _choice(index: int, text: str, reason: str | None, logprobs: Any = None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}


def _object(heading: Heading, answers: list[CollectedAnswer], usage: Usage) -> dict[str, Any]:
    choices = [
        _choice(
            each.index,
            each.text,
            each.reason,
            None if each.logprobs is None else completion_logprobs(each.logprobs, 0)[0],
        )
        | stop_reason(each.stop)
        for each in answers
    ]
    return whole_object(heading, _NAME, choices, usage)
