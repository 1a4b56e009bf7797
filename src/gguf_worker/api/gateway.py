"""The one pipeline behind every front door: validate, ask a provider, render, and end exactly once.

Knows no transport. Every failure becomes one `Failed` reply; no traceback reaches a caller, and no
prompt text a log.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import msgspec

from gguf_worker.api.anthropic import MESSAGES_WORDS, read_messages, read_token_count
from gguf_worker.api.anthropic_wire import messages_failure, messages_wire, token_count
from gguf_worker.api.embeddings import embeddings_object, read_embeddings
from gguf_worker.api.named_events import StoryWire
from gguf_worker.api.render import (
    Body,
    Failed,
    Heading,
    Kind,
    Reply,
    Wire,
    error_object,
    event,
    metrics_of,
    model_list,
    model_object,
    wire,
)
from gguf_worker.api.rerank import read_rerank, rerank_object
from gguf_worker.api.responses import RESPONSES_WORDS, read_responses
from gguf_worker.api.responses_wire import responses_failure, responses_wire
from gguf_worker.api.schema import Request, read_chat, read_completion, read_native
from gguf_worker.api.tokens import read_detokenize, read_tokenize, text_object, tokens_object
from gguf_worker.errors import (
    InternalError,
    ModelNotFound,
    PayloadTooLarge,
    UnknownRoute,
    WorkerError,
)
from gguf_worker.events import Observer, Outcome, RequestDone
from gguf_worker.providers import Ended, Finish, ModelCard, Part, Provider, TextDelta, ToolCallDelta

log = logging.getLogger("gguf_worker.api")

MODELS = "/v1/models"
CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
RESPONSES = "/v1/responses"
MESSAGES = "/v1/messages"
COUNT_TOKENS = "/v1/messages/count_tokens"
EMBEDDINGS = "/v1/embeddings"
RERANK = "/v1/rerank"
TOKENIZE = "/tokenize"
DETOKENIZE = "/detokenize"
GENERATE = "generate"
HEALTH = "health"
METRICS = "metrics"

_WHOLE_INTERVAL = 1.0
"""Seconds between two looks at an answer that is sent as a whole; its end comes at once."""

SAME_ROUTES = {"/rerank": RERANK, "/v2/rerank": RERANK}
"""Other paths of routes, as llama-server's and Cohere's clients know them."""

POST_ROUTES = (
    CHAT,
    COMPLETIONS,
    RESPONSES,
    MESSAGES,
    COUNT_TOKENS,
    EMBEDDINGS,
    RERANK,
    *SAME_ROUTES,
    TOKENIZE,
    DETOKENIZE,
)
"""Those that take a body."""

OPENAI_ROUTES = (*POST_ROUTES, MODELS)

_GENERATING: dict[str, tuple[Kind, Callable[..., Request]]] = {
    CHAT: (Kind.CHAT, read_chat),
    COMPLETIONS: (Kind.COMPLETION, read_completion),
    RESPONSES: (Kind.CHAT, read_responses),
    MESSAGES: (Kind.CHAT, read_messages),
    GENERATE: (Kind.NATIVE, read_native),
}

_FACTS = (MODELS, HEALTH, METRICS)

_WORDS = {RESPONSES: RESPONSES_WORDS, MESSAGES: MESSAGES_WORDS, COUNT_TOKENS: MESSAGES_WORDS}
"""Of the routes whose bodies become a chat completion's; the others say what they mean."""

_FAILURES = {RESPONSES: responses_failure, MESSAGES: messages_failure}
"""How a stream that has not begun says that it has failed, where it is not OpenAI's one shape."""


class Shape(StrEnum):
    """Whose words a call and its answer are in."""

    NATIVE = "native"
    OPENAI = "openai"


@dataclass(frozen=True, slots=True)
class ApiCall:
    """One request, from whichever door. `deadline` is on the machine's monotonic clock.

    `min_interval`: seconds between two pieces of its stream below which its door cannot make use of them.
    `room`: bytes that a whole answer may have there.
    """

    request_id: str
    job_id: str
    route: str
    body: Mapping[str, Any]
    shape: Shape
    deadline: float | None = None
    min_interval: float = 0.0
    room: int | None = None

    @property
    def label(self) -> str:
        """The route for reports: from a closed set, whatever the caller wrote."""
        if self.route.startswith(MODELS + "/"):
            return MODELS
        route = SAME_ROUTES.get(self.route, self.route)
        return route if route in (*_GENERATING, *POST_ROUTES, *_FACTS) else "unknown"

    @property
    def stream(self) -> bool:
        return self.route in _GENERATING and self.body.get("stream") is True


class Gateway:
    """Answers calls. `cards` are those of the models that are served, the first for calls that name none, and
    `provider` is that of one by its card's name; both are asked for each call and may raise why there is none.

    `health` and `metrics` are the worker's state and its Prometheus text. `cold`, asked once by each
    request that reaches the provider of a model, gives the one that pays for a start what that took, in
    seconds by phase, and all others None. `now` is monotonic,
    `clock` seconds since 1970.
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
        self.health = health
        self.metrics = metrics
        self._provider = provider
        self._cards = cards
        self._observe = observe
        self._cold = cold
        self._now = now
        self._clock = clock
        # What needs no generation; the rest are facts.
        self._answers: dict[str, Callable[[ApiCall, _Record], Awaitable[dict[str, Any]]]] = {
            EMBEDDINGS: self._embedded,
            RERANK: self._ranked,
            TOKENIZE: self._tokenized,
            COUNT_TOKENS: self._counted,
            DETOKENIZE: self._detokenized,
        }

    async def handle(self, call: ApiCall) -> AsyncGenerator[Reply, None]:
        """The call's replies. Closing the generator, or cancelling its task, cancels the request."""
        record = _Record(call, self._now())
        try:
            async with aclosing(self._replies(call, record)) as replies:
                async for reply in replies:
                    _require_fit(reply, call.room)
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
        """Ends a call that its front door could not accept; reported like any other."""
        record = _Record(call, self._now())
        reply = record.failed(error)
        self._observe(record.done(self._now()))
        return reply

    async def _replies(self, call: ApiCall, record: _Record) -> AsyncGenerator[Reply, None]:
        if call.route in _GENERATING:
            async with aclosing(self._generate(call, record)) as replies:
                async for reply in replies:
                    yield reply
            return
        answer = self._answers.get(SAME_ROUTES.get(call.route, call.route))
        data = await answer(call, record) if answer else self._fact(call)
        record.outcome = Outcome.STOP
        yield Body(data)

    async def _generate(self, call: ApiCall, record: _Record) -> AsyncGenerator[Reply, None]:
        kind, read = _GENERATING[call.route]
        cards = self._cards()
        request = read(call.body, id=call.request_id, deadline=call.deadline)
        card = _named(request.model, cards)
        if request.unknown:
            log.debug("request %s: %d unknown fields", call.request_id, len(request.unknown))
        heading = Heading(
            kind, call.request_id, card.name, int(self._clock()), warnings=request.warnings
        )
        form = _form(call, heading, request)
        if isinstance(form, StoryWire):
            record.told = form.failed
        provider = self._reached(card, record)
        min_interval = call.min_interval if request.stream else _WHOLE_INTERVAL
        generation = replace(request.generation, min_interval=min_interval)
        with _in_the_callers_words(call.route, request):
            async with aclosing(provider.answer(generation)) as parts:
                async for part in parts:
                    for reply in self._written(part, form, record):
                        yield reply
                    if isinstance(part, Finish):
                        return
        raise RuntimeError("the provider's answer has no end")

    def _written(self, part: Part, form: Wire, record: _Record) -> Iterator[Reply]:
        """The replies that a part of an answer becomes, once it is on record."""
        match part:
            case TextDelta():
                record.note(part, self._now())
                return form.piece(part)
            case ToolCallDelta():
                record.note(part, self._now())
                return form.call(part)
            case Ended():
                return form.ended(part)
            case Finish():
                record.finish(part, self._now())
                return form.finish(part, record.metrics(part))

    async def _embedded(self, call: ApiCall, record: _Record) -> dict[str, Any]:
        cards = self._cards()
        asked = read_embeddings(call.body, id=call.request_id, deadline=call.deadline)
        card = _named(asked.model, cards)
        embeddings = await self._reached(card, record).embed(asked.request)
        record.prompt_tokens = embeddings.prompt_tokens
        return await embeddings_object(embeddings, card.name, base64=asked.base64)

    async def _ranked(self, call: ApiCall, record: _Record) -> dict[str, Any]:
        cards = self._cards()
        asked = read_rerank(call.body, id=call.request_id, deadline=call.deadline)
        card = _named(asked.model, cards)
        ranking = await self._reached(card, record).rank(asked.request)
        record.prompt_tokens = ranking.prompt_tokens
        return rerank_object(ranking, asked, card.name)

    async def _tokenized(self, call: ApiCall, record: _Record) -> dict[str, Any]:
        cards = self._cards()
        asked = read_tokenize(call.body, id=call.request_id)
        card = _named(asked.model, cards)
        provider = self._reached(card, record)
        tokens = await provider.tokens(asked.source, add_special=asked.add_special)
        # A model that had to be loaded first has a context since.
        return tokens_object(tokens, _named(card.name, self._cards()).context)

    async def _counted(self, call: ApiCall, record: _Record) -> dict[str, Any]:
        request = read_token_count(call.body, id=call.request_id, deadline=call.deadline)
        card = _named(request.model, self._cards())
        with _in_the_callers_words(call.route, request):
            tokens = await self._reached(card, record).tokens(request.generation, add_special=True)
        return token_count(len(tokens))

    async def _detokenized(self, call: ApiCall, record: _Record) -> dict[str, Any]:
        asked = read_detokenize(call.body)
        card = _named(asked.model, self._cards())
        return text_object(await self._reached(card, record).text(asked.tokens))

    def _reached(self, card: ModelCard, record: _Record) -> Provider:
        """The provider, for a request that nothing else is in the way of; the first pays for the start."""
        provider = self._provider(card.name)
        record.cold = self._cold(card.name)
        return provider

    def _fact(self, call: ApiCall) -> dict[str, Any]:
        if call.route == HEALTH:
            return dict(self.health())
        if call.route == METRICS:
            return {"metrics": self.metrics()}
        if call.route == MODELS:
            return model_list(self._cards())
        if call.route.startswith(MODELS + "/"):
            return model_object(_named(call.route.removeprefix(MODELS + "/"), self._cards()))
        raise UnknownRoute(
            f"There is no route {call.route[:200]!r}. There are: {', '.join(OPENAI_ROUTES)}."
        )


class _Record:
    """What is known of one call so far; says CANCELLED until something else is true."""

    def __init__(self, call: ApiCall, started: float) -> None:
        self.outcome = Outcome.CANCELLED
        self.prompt_tokens = 0
        """Of an answer that has no Finish."""
        self.cold: Mapping[str, float] | None = None
        self._call = call
        self._started = started
        self.told: Callable[[WorkerError], str | None] = _FAILURES.get(call.route, _told)
        self._code: str | None = None
        self._first: float | None = None
        self._ended: float | None = None
        self._tokens = 0
        self._finish: Finish | None = None

    def note(self, piece: TextDelta | ToolCallDelta, now: float) -> None:
        self._tokens += piece.tokens
        if self._first is None and (piece.text or isinstance(piece, ToolCallDelta)):
            self._first = now

    def finish(self, finish: Finish, now: float) -> None:
        self.outcome = Outcome(finish.reason)
        self._finish = finish
        self._ended = now

    def failed(self, error: WorkerError) -> Failed:
        self.outcome = Outcome.CANCELLED if error.code == "cancelled" else Outcome.ERROR
        self._code = error.code
        streams_events = self._call.stream and self._call.shape is Shape.OPENAI
        return Failed(error, self.told(error) if streams_events else None)

    def metrics(self, finish: Finish) -> Any:
        return metrics_of(
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
        # An answer ends when its last piece is there, not when a slow reader has fetched it.
        return (now if self._ended is None else self._ended) - self._started


def _form(call: ApiCall, heading: Heading, request: Request) -> Wire:
    if call.route == RESPONSES:
        return responses_wire(heading, call.body, stream=request.stream)
    if call.route == MESSAGES:
        return messages_wire(heading, stream=request.stream)
    return wire(
        heading,
        stream=request.stream,
        include_usage=request.include_usage,
        answers=request.generation.answers,
        logprobs=request.generation.logprobs is not None,
    )


def _told(error: WorkerError) -> str:
    return event(error_object(error))


@contextmanager
def _in_the_callers_words(route: str, request: Request) -> Iterator[None]:
    """A grammar goes by many names; where the caller gave none, it is that of the tools."""
    try:
        yield
    except WorkerError as error:
        if error.param == "grammar":
            error.param = request.grammar_field or "tools"
        elif route in _WORDS:
            _WORDS[route].retell(error)
        raise


def _require_fit(reply: Reply, room: int | None) -> None:
    """Refuses a whole answer that would be lost on its way."""
    if room is None or not isinstance(reply, Body):
        return
    text = msgspec.json.encode(reply.data)
    # Python's own writer puts a space behind each of these.
    size = len(text) + text.count(b",") + text.count(b":")
    if size > room:
        raise PayloadTooLarge(
            f"The answer has {size} bytes, of which this way takes {room} at most. "
            "Ask for less at once, or over HTTP."
        )


def _named(name: str | None, cards: Sequence[ModelCard]) -> ModelCard:
    """The model that a call names, or the one for those that name none."""
    if name is None:
        return cards[0]
    for card in cards:
        if card.answers_to(name):
            return card
    raise ModelNotFound(
        f"There is no model {name[:200]!r} here; this worker serves "
        f"{', '.join(repr(card.name) for card in cards)}.",
        param="model",
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
