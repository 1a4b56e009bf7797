"""The one pipeline behind every front door: read, ask a provider, write, and end exactly once.

It depends on no transport and on no single route: routes are records in `routes`. Every failure
becomes one `Failed` reply; no traceback reaches a caller, and no prompt text a log.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import Any

import msgspec

from gguf_worker.api.call import ApiCall, Dialect
from gguf_worker.api.model_list import find_card
from gguf_worker.api.reading import DialectWords
from gguf_worker.api.routes import (
    CardAnswerer,
    FactAnswerer,
    GenerationAnswerer,
    ObjectAnswerer,
    Route,
    error_shape,
    find_route,
    no_route,
)
from gguf_worker.api.writing import (
    ApiReply,
    Body,
    Failed,
    Heading,
    ResponseWriter,
    metrics_object,
    warnings_field,
)
from gguf_worker.errors import InternalError, PayloadTooLarge, WorkerError
from gguf_worker.events import Observer, Outcome, RequestDone
from gguf_worker.providers import Ended, Finish, ModelCard, Part, Provider, TextDelta, ToolCallDelta

log = logging.getLogger("gguf_worker.api")


class Gateway:
    """The gateway, which answers each call with a generator of replies.

    `cards` returns the served models' cards, the first for calls that name no model; `provider`
    returns a model's provider by its card's name. Both are called for each call and may raise the
    reason why there is none. `health` and `metrics` return the worker's state and its Prometheus
    text. `observe` gets the report of each call when it ends. `cold` is called once by each request
    that reaches a model's provider: it returns the seconds of each phase to the request that pays
    for a start, and None to all others. `now` is monotonic; `clock` is in seconds since 1970.
    """

    def __init__(
        self,
        provider: Callable[[str], Provider],
        cards: Callable[[], Sequence[ModelCard]],
        *,
        health: Callable[[], Mapping[str, Any]],
        metrics: Callable[[], str],
        observe: Observer,
        cold: Callable[[str], Mapping[str, float] | None],
        now: Callable[[], float] = time.monotonic,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.cards = cards
        self.health = health
        self.metrics = metrics
        self._provider = provider
        self._observe = observe
        self._cold = cold
        self._now = now
        self._clock = clock

    async def handle(self, call: ApiCall) -> AsyncGenerator[ApiReply, None]:
        """Yield the replies. Closing the generator or cancelling its task cancels the request."""
        route = find_route(call.route)
        record = _CallRecord(call, self._now())
        try:
            async with aclosing(self._replies(call, route, record)) as replies:
                async for reply in replies:
                    _require_fit(reply, call.max_bytes)
                    yield reply
        except WorkerError as error:
            yield record.failed(error)
        except Exception as exc:
            _log_bug(exc, call)
            yield record.failed(
                InternalError(
                    "The worker failed to answer this request. Its log says more under "
                    f"request id {call.request_id}."
                )
            )
        finally:
            self._observe(record.done(self._now()))

    def refuse(self, call: ApiCall, error: WorkerError) -> Failed:
        """End a call that its front door could not accept; it is reported like any other."""
        record = _CallRecord(call, self._now())
        reply = record.failed(error)
        self._observe(record.done(self._now()))
        return reply

    async def _replies(
        self, call: ApiCall, route: Route | None, record: _CallRecord
    ) -> AsyncGenerator[ApiReply, None]:
        if route is None:
            raise no_route(call.route)
        match route.answerer:
            case GenerationAnswerer() as answerer:
                async with aclosing(self._generate(call, answerer, route.words, record)) as replies:
                    async for reply in replies:
                        yield reply
                return
            case ObjectAnswerer() as answerer:
                data = await self._ask(call, answerer, route.words, record)
            case CardAnswerer() as answerer:
                data = self._tell(call, answerer)
            case FactAnswerer(tell):
                data = tell(self, call.route)
        record.outcome = Outcome.STOP
        yield Body(data)

    async def _generate(
        self,
        call: ApiCall,
        answerer: GenerationAnswerer,
        words: DialectWords | None,
        record: _CallRecord,
    ) -> AsyncGenerator[ApiReply, None]:
        cards = self.cards()
        read = answerer.read(call.body, id=call.request_id, deadline=call.deadline)
        card = find_card(read.model, cards)
        heading = Heading(call.request_id, card.name, int(self._clock()), call.body)
        writer = record.writer = answerer.writer(heading, read)
        provider = self._reach(card, record)
        record.whole = not read.stream
        min_interval = call.min_interval if read.stream else 0.0
        request = replace(read.request, min_interval=min_interval, whole=record.whole)
        with _in_the_callers_words(words, read.grammar_field):
            async with aclosing(provider.answer(request)) as parts:
                async for part in parts:
                    for reply in self._written(part, writer, record, read.warnings):
                        yield reply
                    if isinstance(part, Finish):
                        return
        raise RuntimeError("the provider's answer has no end")

    def _written(
        self, part: Part, writer: ResponseWriter, record: _CallRecord, warnings: Sequence[str]
    ) -> Iterator[ApiReply]:
        """Record a part of an answer, and return the replies made of it."""
        match part:
            case TextDelta():
                record.note(part, self._now())
                return writer.text(part)
            case ToolCallDelta():
                record.note(part, self._now())
                return writer.tool_call(part)
            case Ended():
                return writer.ended(part)
            case Finish():
                record.finish(part, self._now())
                footer = {"metrics": record.metrics(part)}
                return writer.finish(part, footer | warnings_field((*warnings, *part.warnings)))

    async def _ask(
        self,
        call: ApiCall,
        answerer: ObjectAnswerer[Any, Any],
        words: DialectWords | None,
        record: _CallRecord,
    ) -> dict[str, Any]:
        cards = self.cards()
        read = answerer.read(call.body, id=call.request_id, deadline=call.deadline)
        card = find_card(read.model, cards)
        with _in_the_callers_words(words, None):
            answer = await answerer.ask(self._reach(card, record), read)
        record.prompt_tokens = answerer.prompt_tokens(answer)
        if card.context is None:  # a model that was loaded for this call has a context by now
            card = find_card(card.name, self.cards())
        data = await answerer.write(answer, read, card)
        return data | warnings_field(read.warnings)

    def _tell(self, call: ApiCall, answerer: CardAnswerer[Any]) -> dict[str, Any]:
        cards = self.cards()
        read = answerer.read(call.body, id=call.request_id, deadline=call.deadline)
        return answerer.write(read, find_card(read.model, cards)) | warnings_field(read.warnings)

    def _reach(self, card: ModelCard, record: _CallRecord) -> Provider:
        """Return the model's provider; note the start's phases if this request pays for it."""
        provider = self._provider(card.name)
        record.cold = self._cold(card.name)
        return provider


class _CallRecord:
    """The facts of one call so far; its outcome is CANCELLED until it ends in another way."""

    def __init__(self, call: ApiCall, started: float) -> None:
        self.outcome = Outcome.CANCELLED
        self.prompt_tokens = 0
        """Prompt tokens of an answer that has no Finish."""
        self.cold: Mapping[str, float] | None = None
        self.writer: ResponseWriter | None = None
        """The writer, once the call was read."""
        self.whole = False
        """Its answer comes in one piece."""
        self._call = call
        self._started = started
        self._errors = error_shape(call.route)
        self._code: str | None = None
        self._first: float | None = None
        self._ended: float | None = None
        self._tokens = 0
        self._finish: Finish | None = None

    def note(self, delta: TextDelta | ToolCallDelta, now: float) -> None:
        self._tokens += delta.tokens
        if self._first is None and (delta.text or isinstance(delta, ToolCallDelta)):
            self._first = now

    def finish(self, finish: Finish, now: float) -> None:
        self.outcome = Outcome(finish.reason)
        if self._first is not None and self.whole:  # it came when the answer had ended
            self._first = now - (finish.usage.seconds - finish.usage.ttft_seconds)
        self._finish = finish
        self._ended = now

    def failed(self, error: WorkerError) -> Failed:
        """Return the call's last reply; on a stream of events it has the error's event."""
        self.outcome = Outcome.CANCELLED if error.code == "cancelled" else Outcome.ERROR
        self._code = error.code
        if self.writer is not None:
            return Failed(error, self.writer.failed(error))
        streams_events = self._call.stream and self._call.dialect is Dialect.OPENAI
        return Failed(error, self._errors.event(error) if streams_events else None)

    def metrics(self, finish: Finish) -> dict[str, Any]:
        return metrics_object(
            finish.usage, ttft_seconds=self._ttft, seconds=self._seconds(0.0), cold=self.cold
        )

    def done(self, now: float) -> RequestDone:
        usage = self._finish.usage if self._finish is not None else None
        return RequestDone(
            request_id=self._call.request_id,
            job_id=self._call.job_id,
            route=self._call.label,
            outcome=self.outcome,
            stream=self._call.stream,
            seconds=self._seconds(now),
            code=self._code,
            queue_seconds=usage.queue_seconds if usage else None,
            prefill_seconds=usage.prefill_seconds if usage else None,
            ttft_seconds=self._ttft,
            prompt_tokens=usage.prompt_tokens if usage else self.prompt_tokens,
            cached_tokens=usage.cached_tokens if usage else 0,
            completion_tokens=usage.completion_tokens if usage else self._tokens,
        )

    @property
    def _ttft(self) -> float | None:
        return None if self._first is None else self._first - self._started

    def _seconds(self, now: float) -> float:
        # An answer ends when its last part is there, not when a slow reader has fetched it.
        return (now if self._ended is None else self._ended) - self._started


@contextmanager
def _in_the_callers_words(words: DialectWords | None, grammar_field: str | None) -> Iterator[None]:
    """Rewrite errors in the caller's field names. A grammar without a field came from the tools."""
    try:
        yield
    except WorkerError as error:
        if error.param == "grammar":
            error.param = grammar_field or "tools"
        elif words is not None:
            words.translate(error)
        raise


def _require_fit(reply: ApiReply, max_bytes: int | None) -> None:
    """Raise PayloadTooLarge for a whole answer that the front door could not deliver."""
    if max_bytes is None or not isinstance(reply, Body):
        return
    text = msgspec.json.encode(reply.data)
    # Python's json module, with which the SDK writes, adds a space after each comma and colon.
    size = len(text) + text.count(b",") + text.count(b":")
    if size > max_bytes:
        raise PayloadTooLarge(
            f"The answer has {size} bytes, of which this way takes {max_bytes} at most. "
            "Ask for less at once, or over HTTP."
        )


def _log_bug(exc: Exception, call: ApiCall) -> None:
    # Frames and types only: the exception's own text may quote the prompt.
    frames = "".join(traceback.format_list(traceback.extract_tb(exc.__traceback__)))
    log.error(
        "request %s of job %s failed on %s: %s\n%s",
        call.request_id,
        call.job_id,
        call.label,
        type(exc).__qualname__,
        frames,
    )
