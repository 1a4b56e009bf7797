"""Answers collected from their parts, and the writer of an answer that is sent as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from gguf_worker.api.writing.openai_objects import call_arguments
from gguf_worker.api.writing.replies import ApiReply, Body
from gguf_worker.api.writing.response_writer import Footer, Heading
from gguf_worker.errors import WorkerError
from gguf_worker.generation import Channel, TokenLogprob, Usage
from gguf_worker.providers import TEXT_PARAMETER, Ended, Finish, TextDelta, ToolCallDelta


@dataclass(slots=True)
class CollectedCall:
    """A tool call so far, its arguments in parts."""

    id: str
    name: str
    arguments: list[str]
    custom: bool = False

    def object(self) -> dict[str, Any]:
        """Return the call as OpenAI writes it."""
        kind, field = ("custom", "input") if self.custom else ("function", "arguments")
        called = {"name": self.name, field: "".join(self.arguments)}
        return {"id": self.id, "type": kind, kind: called}

    def arguments_object(self) -> dict[str, Any]:
        """Return the arguments for the dialects that have no text there, nor custom tools."""
        text = "".join(self.arguments)
        return {TEXT_PARAMETER: text} if self.custom else call_arguments(text)

    def old_object(self) -> dict[str, Any]:
        """Return the call of a function as OpenAI once wrote it."""
        return {"name": self.name, "arguments": "".join(self.arguments)}


@dataclass(slots=True)
class CollectedAnswer:
    """One of the answers so far. `logprobs` is None if they were not asked for."""

    index: int
    logprobs: list[TokenLogprob] | None
    texts: dict[Channel, list[str]] = field(default_factory=dict)
    calls: list[CollectedCall] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)
    reason: str = ""
    stop: str | int | None = None

    @property
    def text(self) -> str:
        return "".join(self.texts.get(Channel.CONTENT, ()))

    @property
    def reasoning(self) -> str:
        return "".join(self.texts.get(Channel.REASONING, ()))

    def add(self, delta: TextDelta) -> None:
        self.texts.setdefault(delta.channel, []).append(delta.text)
        if self.logprobs is not None:
            self.logprobs += delta.logprobs
        self.prompt_logprobs += delta.prompt_logprobs

    def add_call(self, delta: ToolCallDelta) -> None:
        if delta.name is not None:
            self.calls.append(CollectedCall(delta.id or "", delta.name, [], delta.custom))
        self.calls[delta.call].arguments.append(delta.text)

    def end(self, end: Ended | Finish) -> None:
        self.reason, self.stop = end.reason, end.stop


def collecting(count: int, *, logprobs: bool) -> list[CollectedAnswer]:
    """Return `count` empty answers, to be filled."""
    return [CollectedAnswer(index, [] if logprobs else None) for index in range(count)]


WholeObject = Callable[[Heading, list[CollectedAnswer], Usage], dict[str, Any]]
"""Makes a dialect's object of all answers."""


class WholeWriter:
    """The writer of an answer that is not streamed: `build` makes one object at the end."""

    def __init__(self, heading: Heading, build: WholeObject, answers: int, logprobs: bool) -> None:
        self._heading = heading
        self._build = build
        self._answers = collecting(answers, logprobs=logprobs)

    def text(self, delta: TextDelta) -> Iterator[ApiReply]:
        self._answers[delta.index].add(delta)
        return iter(())

    def tool_call(self, delta: ToolCallDelta) -> Iterator[ApiReply]:
        self._answers[delta.index].add_call(delta)
        return iter(())

    def ended(self, ended: Ended) -> Iterator[ApiReply]:
        self._answers[ended.index].end(ended)
        return iter(())

    def finish(self, finish: Finish, footer: Footer) -> Iterator[ApiReply]:
        self._answers[finish.index].end(finish)
        whole = self._build(self._heading, self._answers, finish.usage)
        yield Body(whole | footer)

    def failed(self, error: WorkerError) -> None:
        return None
