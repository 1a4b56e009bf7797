"""The wire: how answers, models and errors are written down for OpenAI clients and for plain jobs.

Knows nothing of where an answer comes from, and nothing of jobs or HTTP: it makes replies, which a front
door delivers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

import msgspec

from gguf_worker.errors import WorkerError
from gguf_worker.providers import Ended, Finish, Piece, Usage

LARGEST_TEXT = 100_000
"""Characters of one streamed text: with the worst escaping still below RunPod's megabyte an item."""

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


@dataclass(frozen=True, slots=True)
class ModelCard:
    """The served model, as callers may know it. `created` is its file's time, seconds since 1970."""

    name: str
    aliases: tuple[str, ...] = ()
    created: int = 0
    context: int | None = None
    parameters: int | None = None
    quantisation: str | None = None

    def answers_to(self, name: str) -> bool:
        return name == self.name or name in self.aliases


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

    def piece(self, piece: Piece) -> Iterator[Reply]: ...

    def ended(self, ended: Ended) -> Iterator[Reply]: ...

    def finish(self, finish: Finish, metrics: dict[str, Any]) -> Iterator[Reply]: ...


def wire(heading: Heading, *, stream: bool, include_usage: bool, answers: int = 1) -> Wire:
    """The form that the caller asked for; `answers` to one prompt are told apart by their index."""
    if not stream:
        return _Whole(heading, answers)
    if heading.kind is Kind.NATIVE:
        return _Items(heading, answers)
    return _Events(heading, include_usage, answers)


def metrics_of(usage: Usage, *, ttft_seconds: float | None, seconds: float, cold: bool) -> Any:
    """A final answer's own figures: milliseconds, tokens per second, and if it paid for a start."""
    return {
        "queue_ms": _milliseconds(usage.queue_seconds),
        "prefill_ms": _milliseconds(usage.prefill_seconds),
        "ttft_ms": _milliseconds(ttft_seconds),
        "total_ms": _milliseconds(seconds),
        "tokens_per_second": _rounded(usage.tokens_per_second, 2),
        "cold": cold,
    }


def model_object(card: ModelCard) -> dict[str, Any]:
    """OpenAI's model object; `max_model_len` is the name that other servers have made usual."""
    return {
        "id": card.name,
        "object": "model",
        "created": card.created,
        "owned_by": "gguf-worker",
        "max_model_len": card.context,
        "meta": {"parameters": card.parameters, "quantisation": card.quantisation},
    }


def model_list(card: ModelCard) -> dict[str, Any]:
    return {"object": "list", "data": [model_object(card)]}


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
class _Answer:
    """One of the answers to a prompt, as far as it is known."""

    index: int
    parts: list[str] = field(default_factory=list)
    reason: str = ""

    @property
    def text(self) -> str:
        return "".join(self.parts)


class _Whole:
    """A non-streaming answer: the collected stream."""

    def __init__(self, heading: Heading, answers: int) -> None:
        self._heading = heading
        self._answers = [_Answer(index) for index in range(answers)]

    def piece(self, piece: Piece) -> Iterator[Reply]:
        self._answers[piece.index].parts.append(piece.text)
        return iter(())

    def ended(self, ended: Ended) -> Iterator[Reply]:
        self._answers[ended.index].reason = ended.reason
        return iter(())

    def finish(self, finish: Finish, metrics: dict[str, Any]) -> Iterator[Reply]:
        self._answers[finish.index].reason = finish.reason
        build = _WHOLE[self._heading.kind]
        yield Body(build(self._heading, self._answers, finish.usage) | {"metrics": metrics})


class _Items:
    """A native stream: plain objects, the last one with the reasons, the cost and the warnings.

    No other has a reason: by it a reader knows the last one.
    """

    def __init__(self, heading: Heading, answers: int) -> None:
        self._heading = heading
        self._answers = [_Answer(index) for index in range(answers)]

    def piece(self, piece: Piece) -> Iterator[Reply]:
        whose = {"index": piece.index} if len(self._answers) > 1 else {}
        for text, tokens in _cut(piece):
            yield Item({"text": text, "tokens": tokens, **whose})

    def ended(self, ended: Ended) -> Iterator[Reply]:
        self._answers[ended.index].reason = ended.reason
        return iter(())

    def finish(self, finish: Finish, metrics: dict[str, Any]) -> Iterator[Reply]:
        self._answers[finish.index].reason = finish.reason
        data = _native_object(self._heading, self._answers, finish.usage)
        yield Item(data | {"metrics": metrics})


class _Events:
    """An OpenAI stream. Events that come at the same time are joined into one reply."""

    def __init__(self, heading: Heading, include_usage: bool, answers: int) -> None:
        self._head = _head(heading, streamed=True)
        self._choice = _CHOICE[heading.kind]
        self._unopened = set(range(answers)) if heading.kind is Kind.CHAT else set()
        self._include_usage = include_usage

    def piece(self, piece: Piece) -> Iterator[Reply]:
        for text, _ in _cut(piece):
            choice = self._choice(piece.index, text, None)
            yield Event(self._open(piece.index) + self._chunk([choice]))

    def ended(self, ended: Ended) -> Iterator[Reply]:
        choice = self._choice(ended.index, None, ended.reason)
        yield Event(self._open(ended.index) + self._chunk([choice]))

    def finish(self, finish: Finish, metrics: dict[str, Any]) -> Iterator[Reply]:
        choice = self._choice(finish.index, None, finish.reason)
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


def _chat_choice(index: int, delta: dict[str, Any], reason: str | None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}


def _chat_delta(index: int, text: str | None, reason: str | None) -> dict[str, Any]:
    return _chat_choice(index, {} if text is None else {"content": text}, reason)


def _completion_delta(index: int, text: str | None, reason: str | None) -> dict[str, Any]:
    return {"index": index, "text": text or "", "logprobs": None, "finish_reason": reason}


_CHOICE: dict[Kind, Callable[[int, str | None, str | None], dict[str, Any]]] = {
    Kind.CHAT: _chat_delta,
    Kind.COMPLETION: _completion_delta,
}

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
            "message": {"role": "assistant", "content": answer.text, "refusal": None},
            "logprobs": None,
            "finish_reason": answer.reason,
        }
        for answer in answers
    ]
    return _openai_object(heading, choices, usage)


def _completion_object(heading: Heading, answers: list[_Answer], usage: Usage) -> dict[str, Any]:
    choices = [_completion_delta(each.index, each.text, each.reason) for each in answers]
    return _openai_object(heading, choices, usage)


def _openai_object(heading: Heading, choices: list[dict[str, Any]], usage: Usage) -> dict[str, Any]:
    head = _head(heading, streamed=False)
    return {**head, "choices": choices, "usage": _usage_object(usage)}


def _native_object(heading: Heading, answers: list[_Answer], usage: Usage) -> dict[str, Any]:
    """The first answer's own fields; where there are more, a list of them all beside these."""
    choices = [
        {"index": each.index, "text": each.text, "finish_reason": each.reason} for each in answers
    ]
    data = {
        "text": choices[0]["text"],
        "finish_reason": choices[0]["finish_reason"],
        "usage": _usage_object(usage),
        "model": heading.model,
    }
    if len(choices) > 1:
        data["choices"] = choices
    if heading.warnings:
        data["warnings"] = list(heading.warnings)
    return data


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


def _cut(piece: Piece) -> Iterator[tuple[str, int]]:
    """The piece in texts that fit an item; its tokens count with the first."""
    yield piece.text[:LARGEST_TEXT], piece.tokens
    for start in range(LARGEST_TEXT, len(piece.text), LARGEST_TEXT):
        yield piece.text[start : start + LARGEST_TEXT], 0


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else _rounded(seconds * 1000, 1)


def _rounded(value: float | None, digits: int) -> float | None:
    """None for what JSON cannot say."""
    return round(value, digits) if value is not None and math.isfinite(value) else None
