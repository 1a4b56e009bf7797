"""The wire: how answers, models and errors are written down for OpenAI clients and for plain jobs.

Knows nothing of where an answer comes from, and nothing of jobs or HTTP: it makes replies, which a front
door delivers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Protocol

import msgspec

from gguf_worker.errors import WorkerError
from gguf_worker.generation import Channel, TokenLogprob, Usage
from gguf_worker.providers import Ended, Finish, ModelCard, TextDelta, ToolCallDelta

LARGEST_TEXT = 100_000
"""Characters of one streamed text: with the worst escaping still below RunPod's megabyte an item."""

MOST_LOGPROBS = 100
"""Tokens of one streamed text whose logprobs are told: with twenty others beside each some 200 kB."""

DONE = "data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Body:
    """A whole answer, as one JSON object."""

    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Event:
    """One or more server-sent events, as text."""

    text: str


@dataclass(frozen=True, slots=True)
class Item:
    """One object of a native stream."""

    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Failed:
    """The request failed; always the last reply. `event` says so on a stream of events."""

    error: WorkerError
    event: str | None = None


Reply = Body | Event | Item | Failed


class Kind(StrEnum):
    CHAT = "chat"
    COMPLETION = "completion"
    NATIVE = "native"


@dataclass(frozen=True, slots=True)
class Heading:
    """What every part of one answer repeats. `created` is seconds since 1970."""

    kind: Kind
    request_id: str
    model: str
    created: int
    warnings: tuple[str, ...] = ()


class Wire(Protocol):
    """Turns the parts of a provider's answer into replies, in order; `finish` is called once, last."""

    def piece(self, piece: TextDelta) -> Iterator[Reply]: ...

    def call(self, piece: ToolCallDelta) -> Iterator[Reply]: ...

    def ended(self, ended: Ended) -> Iterator[Reply]: ...

    def finish(self, finish: Finish, metrics: dict[str, Any]) -> Iterator[Reply]: ...


def wire(
    heading: Heading,
    *,
    stream: bool,
    include_usage: bool,
    answers: int = 1,
    logprobs: bool = False,
) -> Wire:
    """The form that the caller asked for; `answers` are told apart by their index."""
    if not stream:
        return _Whole(heading, answers, logprobs)
    if heading.kind is Kind.NATIVE:
        return _Items(heading, answers)
    return _Events(heading, include_usage, answers, logprobs)


def metrics_of(
    usage: Usage,
    *,
    ttft_seconds: float | None,
    seconds: float,
    cold: Mapping[str, float] | None,
) -> Any:
    """A final answer's own figures: milliseconds, tokens per second, and if it paid for a start: that one's
    phases, in seconds."""
    figures: dict[str, Any] = {
        "queue_ms": _milliseconds(usage.queue_seconds),
        "prefill_ms": _milliseconds(usage.prefill_seconds),
        "ttft_ms": _milliseconds(ttft_seconds),
        "total_ms": _milliseconds(seconds),
        "tokens_per_second": _rounded(usage.tokens_per_second, 2),
        "cold": cold is not None,
    }
    if cold is not None:
        figures["cold_start_seconds"] = {name: _rounded(took, 3) for name, took in cold.items()}
    return figures


def model_object(card: ModelCard) -> dict[str, Any]:
    """OpenAI's model object and Anthropic's in one; `max_model_len` is what other servers have made usual."""
    created = datetime.fromtimestamp(card.created, UTC)
    return {
        "id": card.name,
        "object": "model",
        "created": card.created,
        "owned_by": "gguf-worker",
        "type": "model",
        "display_name": card.name,
        "created_at": created.isoformat().replace("+00:00", "Z"),
        "lifecycle": "active",
        "max_input_tokens": card.context,
        "max_model_len": card.context,
        "meta": {"parameters": card.parameters, "quantisation": card.quantisation},
    }


def model_list(cards: Sequence[ModelCard]) -> dict[str, Any]:
    page = {"has_more": False, "first_id": cards[0].name, "last_id": cards[-1].name}
    return {"object": "list", "data": [model_object(card) for card in cards], **page}


def error_object(error: WorkerError) -> dict[str, Any]:
    """The one shape of an error, wherever it goes."""
    return {"error": error.public()}


def event(data: dict[str, Any]) -> str:
    """One server-sent event. Line separators that careless readers split at are escaped."""
    text = msgspec.json.encode(data).decode()
    if not text.isascii():
        for separator, escaped in _SEPARATORS:
            text = text.replace(separator, escaped)
    return f"data: {text}\n\n"


_SEPARATORS = (("\x85", "\\u0085"), ("\u2028", "\\u2028"), ("\u2029", "\\u2029"))


@dataclass(slots=True)
class _Call:
    """A tool call, as far as it is known."""

    id: str
    name: str
    arguments: list[str]

    def object(self) -> dict[str, Any]:
        function = {"name": self.name, "arguments": "".join(self.arguments)}
        return {"id": self.id, "type": "function", "function": function}


@dataclass(slots=True)
class _Answer:
    """One of the answers, as far as it is known. `logprobs` None: they are not wanted."""

    index: int
    logprobs: list[TokenLogprob] | None
    parts: dict[Channel, list[str]] = field(default_factory=dict)
    calls: list[_Call] = field(default_factory=list)
    reason: str = ""
    stop: str | None = None

    @property
    def text(self) -> str:
        return "".join(self.parts.get(Channel.CONTENT, ()))

    @property
    def reasoning(self) -> str:
        return "".join(self.parts.get(Channel.REASONING, ()))

    def add(self, piece: TextDelta) -> None:
        self.parts.setdefault(piece.channel, []).append(piece.text)
        if self.logprobs is not None:
            self.logprobs += piece.logprobs

    def end(self, end: Ended | Finish) -> None:
        self.reason, self.stop = end.reason, end.stop

    def add_call(self, piece: ToolCallDelta) -> None:
        if piece.name is not None:
            self.calls.append(_Call(piece.id or "", piece.name, []))
        self.calls[piece.call].arguments.append(piece.text)


def _answers(count: int, logprobs: bool) -> list[_Answer]:
    return [_Answer(index, [] if logprobs else None) for index in range(count)]


class _Whole:
    """A non-streaming answer: the collected stream."""

    def __init__(self, heading: Heading, answers: int, logprobs: bool) -> None:
        self._heading = heading
        self._answers = _answers(answers, logprobs)

    def piece(self, piece: TextDelta) -> Iterator[Reply]:
        self._answers[piece.index].add(piece)
        return iter(())

    def call(self, piece: ToolCallDelta) -> Iterator[Reply]:
        self._answers[piece.index].add_call(piece)
        return iter(())

    def ended(self, ended: Ended) -> Iterator[Reply]:
        self._answers[ended.index].end(ended)
        return iter(())

    def finish(self, finish: Finish, metrics: dict[str, Any]) -> Iterator[Reply]:
        self._answers[finish.index].end(finish)
        build = _WHOLE[self._heading.kind]
        yield Body(build(self._heading, self._answers, finish.usage) | {"metrics": metrics})


class _Items:
    """A native stream: plain objects, the last one with the reasons, the cost and the warnings.

    No other has a reason: by it a reader knows the last one.
    """

    def __init__(self, heading: Heading, answers: int) -> None:
        self._heading = heading
        self._answers = _answers(answers, False)

    def piece(self, piece: TextDelta) -> Iterator[Reply]:
        name = "text" if piece.channel is Channel.CONTENT else "reasoning"
        for part in _cut(piece):
            more = _native_logprobs(part.logprobs) if part.logprobs else {}
            yield Item({name: part.text, "tokens": part.tokens, **more, **self._whose(piece.index)})

    def call(self, piece: ToolCallDelta) -> Iterator[Reply]:
        self._answers[piece.index].add_call(piece)
        for part in _cut_call(piece):
            delta = {"tool_calls": [_call_delta(part)], "tokens": part.tokens}
            yield Item({**delta, **self._whose(piece.index)})

    def _whose(self, index: int) -> dict[str, Any]:
        return {"index": index} if len(self._answers) > 1 else {}

    def ended(self, ended: Ended) -> Iterator[Reply]:
        self._answers[ended.index].end(ended)
        return iter(())

    def finish(self, finish: Finish, metrics: dict[str, Any]) -> Iterator[Reply]:
        self._answers[finish.index].end(finish)
        data = _native_object(self._heading, self._answers, finish.usage)
        yield Item(data | {"metrics": metrics})


class _Events:
    """An OpenAI stream. Events that come at the same time are joined into one reply."""

    def __init__(self, heading: Heading, include_usage: bool, answers: int, logprobs: bool) -> None:
        self._head = _head(heading, streamed=True)
        self._form = _FORMS[heading.kind](logprobs)
        self._unopened = set(range(answers)) if heading.kind is Kind.CHAT else set()
        self._include_usage = include_usage

    def piece(self, piece: TextDelta) -> Iterator[Reply]:
        for part in _cut(piece):
            choice = self._form.piece(part)
            yield Event(self._open(piece.index) + self._chunk([choice]))

    def call(self, piece: ToolCallDelta) -> Iterator[Reply]:
        for part in _cut_call(piece):
            choice = _chat_choice(part.index, {"tool_calls": [_call_delta(part)]}, None)
            yield Event(self._open(part.index) + self._chunk([choice]))

    def ended(self, ended: Ended) -> Iterator[Reply]:
        choice = self._form.end(ended) | _stop_reason(ended)
        yield Event(self._open(ended.index) + self._chunk([choice]))

    def finish(self, finish: Finish, metrics: dict[str, Any]) -> Iterator[Reply]:
        choice = self._form.end(finish) | _stop_reason(finish)
        last = self._chunk([choice], metrics=metrics)
        usage = ""
        if self._include_usage:
            usage = self._chunk([], usage=_usage_object(finish.usage))
        yield Event(self._open(finish.index) + last + usage + DONE)

    def _open(self, index: int) -> str:
        if index not in self._unopened:
            return ""
        self._unopened.remove(index)
        delta = {"role": "assistant", "content": ""}
        return self._chunk([_chat_choice(index, delta, None)])

    def _chunk(self, choices: Sequence[dict[str, Any]], **more: Any) -> str:
        data = {**self._head, "choices": choices}
        if self._include_usage:
            data["usage"] = None
        return event(data | more)


def _chat_choice(
    index: int, delta: dict[str, Any], reason: str | None, logprobs: Any = None
) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}


def _call_delta(piece: ToolCallDelta) -> dict[str, Any]:
    """The beginning of a call, or more of its arguments."""
    if piece.name is None:
        return {"index": piece.call, "function": {"arguments": piece.text}}
    function = {"name": piece.name, "arguments": piece.text}
    return {"index": piece.call, "id": piece.id, "type": "function", "function": function}


class _ChatForm:
    """The choices of a streamed chat."""

    def __init__(self, logprobs: bool) -> None:
        self._logprobs = logprobs

    def piece(self, piece: TextDelta) -> dict[str, Any]:
        name = "content" if piece.channel is Channel.CONTENT else "reasoning_content"
        logprobs = chat_logprobs(piece.logprobs) if self._logprobs else None
        return _chat_choice(piece.index, {name: piece.text}, None, logprobs)

    def end(self, end: Ended | Finish) -> dict[str, Any]:
        return _chat_choice(end.index, {}, end.reason)


class _CompletionForm:
    """The choices of a streamed completion. Offsets of tokens go on from choice to choice."""

    def __init__(self, logprobs: bool) -> None:
        self._logprobs = logprobs
        self._offsets: dict[int, int] = {}

    def piece(self, piece: TextDelta) -> dict[str, Any]:
        if not self._logprobs:
            return _completion_choice(piece.index, piece.text, None)
        start = self._offsets.get(piece.index, 0)
        logprobs, self._offsets[piece.index] = completion_logprobs(piece.logprobs, start)
        return _completion_choice(piece.index, piece.text, None, logprobs)

    def end(self, end: Ended | Finish) -> dict[str, Any]:
        return _completion_choice(end.index, "", end.reason)


def _stop_reason(ended: _Answer | Ended | Finish) -> dict[str, Any]:
    """vLLM's name for the stop string that ended an answer, or null."""
    return {"stop_reason": ended.stop}


_FORMS: dict[Kind, Callable[[bool], _ChatForm | _CompletionForm]] = {
    Kind.CHAT: _ChatForm,
    Kind.COMPLETION: _CompletionForm,
}


def _completion_choice(
    index: int, text: str, reason: str | None, logprobs: Any = None
) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}


_OBJECTS = {
    Kind.CHAT: ("chatcmpl", "chat.completion"),
    Kind.COMPLETION: ("cmpl", "text_completion"),
}


def _head(heading: Heading, *, streamed: bool) -> dict[str, Any]:
    prefix, name = _OBJECTS[heading.kind]
    if streamed and heading.kind is Kind.CHAT:
        name += ".chunk"
    return {
        "id": f"{prefix}-{heading.request_id}",
        "object": name,
        "created": heading.created,
        "model": heading.model,
        "system_fingerprint": None,
    }


def _chat_object(heading: Heading, answers: list[_Answer], usage: Usage) -> dict[str, Any]:
    choices = [
        {
            "index": answer.index,
            "message": _message(answer),
            "logprobs": None if answer.logprobs is None else chat_logprobs(answer.logprobs),
            "finish_reason": answer.reason,
            **_stop_reason(answer),
        }
        for answer in answers
    ]
    return _openai_object(heading, choices, usage)


def _message(answer: _Answer) -> dict[str, Any]:
    content = answer.text or (None if answer.calls else "")
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
    if answer.reasoning:
        message["reasoning_content"] = answer.reasoning
    if answer.calls:
        message["tool_calls"] = [call.object() for call in answer.calls]
    return message


def _completion_object(heading: Heading, answers: list[_Answer], usage: Usage) -> dict[str, Any]:
    choices = [
        _completion_choice(
            each.index,
            each.text,
            each.reason,
            None if each.logprobs is None else completion_logprobs(each.logprobs, 0)[0],
        )
        | _stop_reason(each)
        for each in answers
    ]
    return _openai_object(heading, choices, usage)


def _openai_object(heading: Heading, choices: list[dict[str, Any]], usage: Usage) -> dict[str, Any]:
    head = _head(heading, streamed=False)
    return {**head, "choices": choices, "usage": _usage_object(usage)}


def _native_object(heading: Heading, answers: list[_Answer], usage: Usage) -> dict[str, Any]:
    """The first answer's own fields; where there are more, a list of them all beside these."""
    choices = [_native_choice(each) for each in answers]
    first = {name: value for name, value in choices[0].items() if name != "index"}
    data = {**first, "usage": _usage_object(usage), "model": heading.model}
    if len(choices) > 1:
        data["choices"] = choices
    if heading.warnings:
        data["warnings"] = list(heading.warnings)
    return data


def _native_choice(answer: _Answer) -> dict[str, Any]:
    data = {"index": answer.index, "text": answer.text, "finish_reason": answer.reason}
    if answer.stop is not None:
        data |= _stop_reason(answer)
    if answer.reasoning:
        data["reasoning"] = answer.reasoning
    if answer.calls:
        data["tool_calls"] = [call.object() for call in answer.calls]
    if answer.logprobs is not None:
        data |= _native_logprobs(answer.logprobs)
    return data


def _native_logprobs(logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
    return {"logprobs": chat_logprobs(logprobs)["content"]}


_WHOLE: dict[Kind, Callable[[Heading, list[_Answer], Usage], dict[str, Any]]] = {
    Kind.CHAT: _chat_object,
    Kind.COMPLETION: _completion_object,
    Kind.NATIVE: _native_object,
}


def _usage_object(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def chat_logprobs(logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
    """As chats have them: one object for each token."""
    content = [
        {
            **_token(each.piece, each.logprob),
            "top_logprobs": [_token(piece, logprob) for _, piece, logprob in each.top],
        }
        for each in logprobs
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(logprobs: Sequence[TokenLogprob], start: int) -> tuple[dict[str, Any], int]:
    """As completions have them: lists side by side; and the offset (characters) that comes next."""
    tokens = [_shown(each.piece) for each in logprobs]
    offsets = list(itertools.accumulate(map(len, tokens), initial=start))
    tops = [
        {_shown(piece): _finite(logprob) for _, piece, logprob in each.top} for each in logprobs
    ]
    lists = {
        "tokens": tokens,
        "token_logprobs": [_finite(each.logprob) for each in logprobs],
        "top_logprobs": tops,
        "text_offset": offsets[:-1],
    }
    return lists, offsets[-1]


def _token(piece: bytes, logprob: float) -> dict[str, Any]:
    return {"token": _shown(piece), "logprob": _finite(logprob), "bytes": list(piece)}


def _shown(piece: bytes) -> str:
    return piece.decode("utf-8", "replace")


def _finite(logprob: float) -> float:
    """JSON has no infinity; this is OpenAI's word for "all but impossible"."""
    return max(logprob, _LEAST_LOGPROB)


_LEAST_LOGPROB = -9999.0


def _cut(piece: TextDelta) -> Iterator[TextDelta]:
    """The piece in parts that fit an item; its tokens count with the first."""
    if len(piece.text) <= LARGEST_TEXT and len(piece.logprobs) <= MOST_LOGPROBS:
        yield piece
        return
    starts = range(0, len(piece.logprobs), MOST_LOGPROBS)
    told = [piece.logprobs[start : start + MOST_LOGPROBS] for start in starts]
    tokens = piece.tokens
    for text, logprobs in itertools.zip_longest(_slices(piece.text), told):
        yield replace(piece, text=text or "", tokens=tokens, logprobs=logprobs or ())
        tokens = 0


def _cut_call(piece: ToolCallDelta) -> Iterator[ToolCallDelta]:
    first, *others = _slices(piece.text)
    yield replace(piece, text=first)
    for text in others:
        yield ToolCallDelta(piece.call, text, 0, piece.index)


def _slices(text: str) -> list[str]:
    starts = range(0, max(1, len(text)), LARGEST_TEXT)
    return [text[start : start + LARGEST_TEXT] for start in starts]


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else _rounded(seconds * 1000, 1)


def _rounded(value: float | None, digits: int) -> float | None:
    """None for what JSON cannot say."""
    return round(value, digits) if value is not None and math.isfinite(value) else None
