"""The writer of /v1/responses: the response object, and its event stream.

Items come in the order in which the model wrote them: thoughts, text, calls.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from gguf_worker.api.openai.responses_reader import LOGPROBS
from gguf_worker.api.openai.responses_tools import namespaces
from gguf_worker.api.reading import GenerationCall
from gguf_worker.api.writing import (
    ErrorShape,
    Footer,
    Heading,
    NamedEvent,
    NamedEventReplies,
    chat_logprobs,
    cut_text,
    named_event_text,
)
from gguf_worker.errors import Overloaded, RequestError, WorkerError
from gguf_worker.generation import Channel, Usage
from gguf_worker.providers import Finish, TextDelta, ToolCallDelta


def responses_writer(heading: Heading, call: GenerationCall) -> NamedEventReplies:
    """Return the writer of the form that the caller asked for. The heading holds the body."""
    return NamedEventReplies(ResponseEvents(heading), stream=call.stream)


def responses_failure(error: WorkerError) -> str:
    """Return the event of a stream that fails before its answer has begun."""
    return named_event_text(_error_event(error, 0))


RESPONSES_ERRORS = ErrorShape("Error", event=responses_failure)


@dataclass(frozen=True, slots=True)
class OutputKind:
    """A kind of item: its type, the prefixes of its ids and events, and its part's type."""

    type: str
    id_prefix: str
    events: str
    part: str | None = None


_MESSAGE = OutputKind("message", "msg", "response.output_text", "output_text")
_REASONING = OutputKind("reasoning", "rs", "response.reasoning_text", "reasoning_text")
_CALL = OutputKind("function_call", "fc", "response.function_call_arguments")


@dataclass(slots=True)
class OutputItem:
    """One item of the output so far. `logprobs` is None if they were not asked for."""

    kind: OutputKind
    id: str
    index: int
    facts: Mapping[str, Any]
    logprobs: list[dict[str, Any]] | None
    status: str = "in_progress"
    texts: list[str] = field(default_factory=list)

    @property
    def address(self) -> dict[str, Any]:
        """The fields of an event that say to which item its text belongs."""
        address = {"item_id": self.id, "output_index": self.index}
        return address if self.kind.part is None else address | {"content_index": 0}

    def object(self) -> dict[str, Any]:
        """Return the item as it is so far; it has a part once it has a text."""
        more: dict[str, Any] = {}
        parts = [self.part()] if self.texts else []
        if self.kind is _CALL:
            more = {**self.facts, "arguments": "".join(self.texts)}
        elif self.kind is _MESSAGE:
            more = {"role": "assistant", "content": parts}
        else:
            more = {"summary": [], "content": parts}
        return {"id": self.id, "type": self.kind.type, "status": self.status, **more}

    def part(self) -> dict[str, Any]:
        """Return the item's one part."""
        part: dict[str, Any] = {"type": self.kind.part, "text": "".join(self.texts)}
        if self.kind is _MESSAGE:
            part["annotations"] = []
            part["logprobs"] = list(self.logprobs or ())
        return part

    def whole_text(self) -> dict[str, Any]:
        """Return the fields of the event that repeats the text as a whole."""
        text = "".join(self.texts)
        if self.kind is _CALL:
            return {"arguments": text, "name": self.facts["name"]}
        logprobs = {"logprobs": list(self.logprobs or ())} if self.kind is _MESSAGE else {}
        return {"text": text, **logprobs}


class ResponseEvents:
    """The NamedEventWriter of a response. Its events are numbered from 0."""

    def __init__(self, heading: Heading) -> None:
        self._fixed = _fixed(heading)
        self._request_id = heading.request_id
        self._namespaces = namespaces(heading.body)
        self._wants_logprobs = LOGPROBS in (heading.body.get("include") or ())
        self._items: list[OutputItem] = []
        self._open: OutputItem | None = None
        self._event_count = 0
        self._reasoning_tokens = 0
        self._end: dict[str, Any] = {"status": "in_progress"}

    def text(self, delta: TextDelta) -> Iterator[NamedEvent]:
        thought = delta.channel is Channel.REASONING
        if thought:
            self._reasoning_tokens += delta.tokens
        logprobs: list[dict[str, Any]] = []
        if self._wants_logprobs and not thought:
            logprobs = chat_logprobs(delta.logprobs)["content"]
        if not delta.text and (not logprobs or self._calling):
            return  # logprobs of a call's tokens alone begin no message
        item = yield from self._at(_REASONING if thought else _MESSAGE)
        for text in cut_text(delta.text) if delta.text else ("",):
            more = {"logprobs": logprobs} if item.kind is _MESSAGE else {}
            if item.logprobs is not None:
                item.logprobs += logprobs
            yield self._delta(item, text, more)
            logprobs = []

    def tool_call(self, delta: ToolCallDelta) -> Iterator[NamedEvent]:
        item = self._open
        if delta.name is not None:
            item = yield from self._next(_CALL, {"call_id": delta.id, **self._named(delta.name)})
        assert item is not None
        for text in cut_text(delta.text):
            yield self._delta(item, text, {})

    def finish(self, finish: Finish, footer: Footer) -> Iterator[NamedEvent]:
        if not self._items:
            yield from self._next(_MESSAGE, {})
        cut_off = finish.reason == "length"
        status = "incomplete" if cut_off else "completed"
        yield from self._closed(status)
        self._end = {
            "status": status,
            "incomplete_details": {"reason": "max_output_tokens"} if cut_off else None,
            "usage": _usage_object(finish.usage, self._reasoning_tokens),
            **footer,
        }
        yield self._event(f"response.{status}", response=self.whole())

    def failed(self, error: WorkerError) -> NamedEvent:
        if not self._event_count:
            return _error_event(error, 0)
        for item in self._items:
            if item is self._open:
                item.status = "incomplete"
        self._end = {"status": "failed", "error": _error_object(error)}
        return self._event("response.failed", response=self.whole())

    def whole(self) -> dict[str, Any]:
        return self._fixed | {"output": [item.object() for item in self._items]} | self._end

    def _named(self, name: str) -> dict[str, str]:
        """Return a called function's own name, and its namespace if it is in one."""
        if name not in self._namespaces:
            return {"name": name}
        namespace, own = self._namespaces[name]
        return {"name": own, "namespace": namespace}

    @property
    def _calling(self) -> bool:
        return self._open is not None and self._open.kind is _CALL

    def _at(self, kind: OutputKind) -> Generator[NamedEvent, None, OutputItem]:
        """Go on with the open item if it is of this kind, else with a new one."""
        if self._open is not None and self._open.kind is kind:
            return self._open
        return (yield from self._next(kind, {}))

    def _next(
        self, kind: OutputKind, facts: Mapping[str, Any]
    ) -> Generator[NamedEvent, None, OutputItem]:
        yield from self._begun()
        yield from self._closed("completed")
        index = len(self._items)
        wanted = kind is _MESSAGE and self._wants_logprobs
        id = f"{kind.id_prefix}_{self._request_id}_{index}"
        item = OutputItem(kind, id, index, facts, [] if wanted else None)
        self._items.append(item)
        self._open = item
        yield self._event("response.output_item.added", output_index=index, item=item.object())
        if kind.part is not None:
            yield self._event("response.content_part.added", **item.address, part=item.part())
            item.texts.append("")
        return item

    def _begun(self) -> Iterator[NamedEvent]:
        if not self._event_count:
            yield self._event("response.created", response=self.whole())
            yield self._event("response.in_progress", response=self.whole())

    def _delta(self, item: OutputItem, text: str, more: Mapping[str, Any]) -> NamedEvent:
        item.texts.append(text)
        return self._event(f"{item.kind.events}.delta", **item.address, delta=text, **more)

    def _closed(self, status: str) -> Iterator[NamedEvent]:
        item, self._open = self._open, None
        if item is None:
            return
        item.status = status
        yield self._event(f"{item.kind.events}.done", **item.address, **item.whole_text())
        if item.kind.part is not None:
            yield self._event("response.content_part.done", **item.address, part=item.part())
        yield self._event("response.output_item.done", output_index=item.index, item=item.object())

    def _event(self, type: str, **fields: Any) -> NamedEvent:
        number = self._event_count
        self._event_count += 1
        return {"type": type, "sequence_number": number, **fields}


def _fixed(heading: Heading) -> dict[str, Any]:
    """Return the fields that do not change, some of them the request's own."""
    body = heading.body
    given = {name: body.get(name) for name in _REPEATED}
    text = body.get("text") or {}
    reasoning = body.get("reasoning") or {}
    parallel = body.get("parallel_tool_calls")
    return {
        "id": f"resp_{heading.request_id}",
        "object": "response",
        "created_at": heading.created,
        "model": heading.model,
        **given,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "metadata": body.get("metadata") or {},
        "parallel_tool_calls": True if parallel is None else parallel,
        "previous_response_id": None,
        "reasoning": {name: reasoning.get(name) for name in ("effort", "summary")},
        "store": False,
        "text": {
            "format": text.get("format") or {"type": "text"},
            "verbosity": text.get("verbosity") or "medium",
        },
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": [_tool(tool) for tool in body.get("tools") or () if tool["type"] in _SHOWN],
        "truncation": body.get("truncation") or "disabled",
        "usage": None,
    }


_REPEATED = (
    "instructions",
    "max_output_tokens",
    "max_tool_calls",
    "prompt_cache_key",
    "safety_identifier",
    "temperature",
    "top_logprobs",
    "top_p",
    "user",
)

_TOOL = ("type", "name", "description", "parameters", "strict")
_SHOWN = frozenset({"function", "custom", "namespace"})
"""Kinds of tools that are offered to the model, and so belong to the answer's facts."""


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    if tool["type"] != "function":
        return dict(tool)
    return {name: tool.get(name) for name in _TOOL}


def _usage_object(usage: Usage, reasoning_tokens: int) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _error_object(error: WorkerError) -> dict[str, Any]:
    """Return the error with a code of OpenAI's closed list, and ours as `worker_code`."""
    code = "server_error"
    if isinstance(error, RequestError):
        code = "invalid_prompt"
    elif isinstance(error, Overloaded):
        code = "rate_limit_exceeded"
    return error.public() | {"code": code, "worker_code": error.code}


def _error_event(error: WorkerError, number: int) -> NamedEvent:
    public = error.public()
    fields = {name: public[name] for name in ("code", "message", "param")}
    return {"type": "error", "sequence_number": number, **fields}
