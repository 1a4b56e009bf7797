"""The writer of completions."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from functools import partial
from typing import Any

from gguf_worker.api.openai.choice_stream import ChoiceStream, ObjectName, whole_object
from gguf_worker.api.reading import GenerationCall
from gguf_worker.api.writing import (
    CollectedAnswer,
    Heading,
    ResponseWriter,
    WholeWriter,
    prompt_logprobs,
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
        return WholeWriter(heading, partial(_object, call), answers, logprobs)
    choices = CompletionChoices(logprobs, echo=call.request.echo)
    return ChoiceStream(heading, _NAME, choices, answers=answers, include_usage=call.include_usage)


class CompletionChoices:
    """The choices of a streamed completion. Token offsets continue from choice to choice."""

    def __init__(self, logprobs: bool, *, echo: bool = False) -> None:
        self._logprobs = logprobs
        self._echo = echo
        self._offsets: dict[int, TextOffsets] = {}

    def opening(self, index: int) -> None:
        return None

    def text(self, delta: TextDelta) -> dict[str, Any]:
        if not self._logprobs:
            return _choice(delta.index, delta.text, None)
        if delta.index not in self._offsets:
            self._offsets[delta.index] = TextOffsets(delta.text if self._echo else "")
        offsets = self._offsets[delta.index]
        tokens = (*delta.prompt_logprobs, *delta.logprobs) if self._echo else delta.logprobs
        return _choice(delta.index, delta.text, None, completion_logprobs(tokens, offsets))

    def tool_call(self, delta: ToolCallDelta) -> dict[str, Any]:
        raise RuntimeError("a completion has no tools to call")

    def end(self, end: Ended | Finish) -> dict[str, Any]:
        return _choice(end.index, "", end.reason)


class TextOffsets:
    """The places of tokens in a text, in characters.

    `echoed`: the text as far as it is the prompt. Its first tokens may spell what it has not: the
    token that begins every text, or a space before the first word.
    """

    def __init__(self, echoed: str = "") -> None:
        self._echoed = echoed
        self._at = 0
        self._decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode

    def next(self, piece: bytes) -> int:
        """Return the place of the next token."""
        at, text = self._at, self._decode(piece)
        if at == 0 and self._echoed and not self._echoed.startswith(text):
            text = text.lstrip(" ") if self._echoed.startswith(text.lstrip(" ")) else ""
        self._at += len(text)
        return at


def completion_logprobs(logprobs: Sequence[TokenLogprob], offsets: TextOffsets) -> dict[str, Any]:
    """Return a completion's logprobs as parallel lists."""
    return {
        "tokens": [shown_token(each.piece) for each in logprobs],
        "token_logprobs": [shown_logprob(each.logprob) for each in logprobs],
        "top_logprobs": [_likeliest(each) for each in logprobs],
        "text_offset": [offsets.next(each.piece) for each in logprobs],
    }


def _likeliest(each: TokenLogprob) -> dict[str, Any] | None:
    """Return the likeliest tokens of a place by their texts, that of the answer among them.

    Tokens that are parts of a character look the same: the likeliest of them counts.
    """
    if each.logprob is None:
        return None
    likeliest: dict[str, Any] = {}
    for _, piece, logprob in (*each.top, (each.token, each.piece, each.logprob)):
        likeliest.setdefault(shown_token(piece), shown_logprob(logprob))
    return likeliest


def _choice(index: int, text: str, reason: str | None, logprobs: Any = None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}


def _object(
    call: GenerationCall, heading: Heading, answers: list[CollectedAnswer], usage: Usage
) -> dict[str, Any]:
    choices = [_whole_choice(call, each) for each in answers]
    return whole_object(heading, _NAME, choices, usage)


def _whole_choice(call: GenerationCall, answer: CollectedAnswer) -> dict[str, Any]:
    logprobs = None
    if answer.logprobs is not None:
        echo = call.request.echo
        tokens = [*answer.prompt_logprobs, *answer.logprobs] if echo else answer.logprobs
        logprobs = completion_logprobs(tokens, TextOffsets(answer.text if echo else ""))
    choice = _choice(answer.index, answer.text, answer.reason, logprobs)
    if call.shows_prompt_logprobs:
        choice |= prompt_logprobs(answer.prompt_logprobs, call.request.prompt_logprobs or 0)
    return choice | stop_reason(answer.stop)
