"""The registry of routes: each route is one record, and no other module lists them.

A new route needs a reader, a writer and a record here, whether it generates text or asks for
vectors, scores or the like. The gateway, the HTTP front, the OpenAPI document, reports and error
messages read the records.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from gguf_worker import __version__
from gguf_worker.api.anthropic import (
    ANTHROPIC_ERRORS,
    MESSAGES_FOREIGN,
    MESSAGES_WORDS,
    MessagesBody,
    messages_writer,
    read_messages,
    read_token_count,
    write_token_count,
)
from gguf_worker.api.model_list import (
    find_card,
    list_object,
    model_object,
    properties_object,
)
from gguf_worker.api.native import native_writer, read_native
from gguf_worker.api.ollama import (
    CHAT_LINES,
    GENERATE_LINES,
    OLLAMA_ERRORS,
    OLLAMA_WORDS,
    ModelNameBody,
    OllamaChatBody,
    OllamaEmbedBody,
    OllamaEmbeddingBody,
    OllamaGenerateBody,
    chat_lines_writer,
    generate_lines_writer,
    loaded_models,
    read_embed,
    read_model_name,
    read_ollama_chat,
    read_ollama_generate,
    read_one_embedding,
    version_object,
    write_embed,
    write_model,
    write_one_embedding,
    write_pulled,
    write_tags,
)
from gguf_worker.api.openai import (
    CHAT_MODELS,
    COMPLETION_MODELS,
    RESPONSES_ERRORS,
    RESPONSES_FOREIGN,
    RESPONSES_WORDS,
    EmbeddingsBody,
    ResponsesBody,
    chat_writer,
    completion_writer,
    read_chat,
    read_completion,
    read_embeddings,
    read_responses,
    responses_writer,
    write_embeddings,
)
from gguf_worker.api.reading import DialectWords, GenerationCall, StrictModel
from gguf_worker.api.rerank import RerankBody, read_rerank, write_ranking
from gguf_worker.api.tokens import (
    DetokenizeBody,
    TokenizeBody,
    ask_tokens,
    read_detokenize,
    read_tokenize,
    write_text,
    write_tokens,
)
from gguf_worker.api.writing import (
    EVENTS,
    PLAIN_ERRORS,
    ErrorShape,
    Heading,
    ResponseWriter,
    StreamForm,
)
from gguf_worker.errors import UnknownRoute
from gguf_worker.providers import ModelCard, Provider

MODELS = "/v1/models"
GENERATE = "generate"
HEALTH = "health"
METRICS = "metrics"


class ReadCall(Protocol):
    """A call of any kind, after its body was read."""

    @property
    def model(self) -> str | None: ...

    @property
    def warnings(self) -> Sequence[str]:
        """Sentences about what was not read as it was sent."""
        ...


CallT = TypeVar("CallT", bound=ReadCall)
ReadT = TypeVar("ReadT", bound=ReadCall, covariant=True)
AnswerT = TypeVar("AnswerT")


class BodyReader(Protocol[ReadT]):
    """Reads a body. Raises InvalidRequest for a wrong one; `deadline` as in an ApiCall."""

    def __call__(self, body: Mapping[str, Any], *, id: str, deadline: float | None) -> ReadT: ...


@dataclass(frozen=True, slots=True)
class GenerationAnswerer:
    """The answerer of a route whose answer is generated, and streamed where the caller wants it."""

    read: BodyReader[GenerationCall]
    writer: Callable[[Heading, GenerationCall], ResponseWriter]
    form: StreamForm = EVENTS


@dataclass(frozen=True, slots=True)
class ObjectAnswerer(Generic[CallT, AnswerT]):
    """The answerer of a route whose answer is one object, made from one result of a provider.

    `prompt_tokens` returns the prompt tokens of an answer, for the report.
    """

    read: BodyReader[CallT]
    ask: Callable[[Provider, CallT], Awaitable[AnswerT]]
    write: Callable[[AnswerT, CallT, ModelCard], Awaitable[dict[str, Any]]]
    prompt_tokens: Callable[[AnswerT], int] = lambda answer: 0


@dataclass(frozen=True, slots=True)
class CardAnswerer(Generic[CallT]):
    """The answerer of a route that tells of one model, which its body names, and asks nobody."""

    read: BodyReader[CallT]
    write: Callable[[CallT, ModelCard], dict[str, Any]]


class WorkerFacts(Protocol):
    """The facts that a worker tells about itself: its models, its health and its metrics."""

    def cards(self) -> Sequence[ModelCard]: ...

    def health(self) -> Mapping[str, Any]: ...

    def metrics(self) -> str: ...


@dataclass(frozen=True, slots=True)
class FactAnswerer:
    """The answerer of a route that asks no provider; `tell` also gets the path of the call."""

    tell: Callable[[WorkerFacts, str], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class BodyDocument:
    """A route's body in the OpenAPI document.

    `models` check it together; of two fields of one name the later model's is documented.
    `without`: fields of the models to leave out. `also_required`: fields that are required although
    the models do not require them.
    """

    models: Sequence[type[StrictModel]]
    example: Mapping[str, Any]
    without: Collection[str] = ()
    also_required: Sequence[str] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """One route: its paths, its answerer, and its dialect's errors and words for faults.

    `methods` are HTTP's; a route without any is not served over HTTP. `words` translate the faults
    of a body that was rewritten as a chat completion's. `has_names`: each served model has a path
    of its own below this one.
    """

    path: str
    answerer: GenerationAnswerer | ObjectAnswerer[Any, Any] | CardAnswerer[Any] | FactAnswerer
    aliases: tuple[str, ...] = ()
    """Other paths of the route, used by llama-server's and Cohere's clients."""
    methods: tuple[str, ...] = ("POST",)
    errors: ErrorShape = PLAIN_ERRORS
    words: DialectWords | None = None
    document: BodyDocument | None = None
    has_names: bool = False

    @property
    def paths(self) -> tuple[str, ...]:
        return (self.path, *self.aliases)

    @property
    def takes_body(self) -> bool:
        return not isinstance(self.answerer, FactAnswerer)

    @property
    def generates(self) -> bool:
        return isinstance(self.answerer, GenerationAnswerer)

    def streams(self, body: Mapping[str, Any]) -> bool:
        """Tell if the caller of this body wants the answer as a stream."""
        if not isinstance(self.answerer, GenerationAnswerer):
            return False
        wanted = body.get("stream")
        return self.answerer.form.by_default if wanted is None else wanted is True


def _models(facts: WorkerFacts, path: str) -> dict[str, Any]:
    if path == MODELS:
        return list_object(facts.cards())
    return model_object(find_card(path.removeprefix(f"{MODELS}/"), facts.cards()))


_HELLO = [{"role": "user", "content": "Hello"}]
_TEXTS = ["The sea is wide.", "Bread needs flour."]

ROUTES: tuple[Route, ...] = (
    Route(
        "/v1/chat/completions",
        GenerationAnswerer(read_chat, chat_writer),
        document=BodyDocument(
            CHAT_MODELS, example={"messages": _HELLO, "max_tokens": 40, "stream": True}
        ),
    ),
    Route(
        "/v1/completions",
        GenerationAnswerer(read_completion, completion_writer),
        document=BodyDocument(
            COMPLETION_MODELS, example={"prompt": "The sea is", "max_tokens": 40}
        ),
    ),
    Route(
        "/v1/responses",
        GenerationAnswerer(read_responses, responses_writer),
        errors=RESPONSES_ERRORS,
        words=RESPONSES_WORDS,
        document=BodyDocument(
            (*CHAT_MODELS, ResponsesBody),
            example={"input": "Hello", "max_output_tokens": 40},
            without=RESPONSES_FOREIGN,
        ),
    ),
    Route(
        "/v1/messages",
        GenerationAnswerer(read_messages, messages_writer),
        errors=ANTHROPIC_ERRORS,
        words=MESSAGES_WORDS,
        document=BodyDocument(
            (*CHAT_MODELS, MessagesBody),
            example={"messages": _HELLO, "max_tokens": 40},
            without=MESSAGES_FOREIGN,
            also_required=("max_tokens",),
        ),
    ),
    Route(
        "/v1/messages/count_tokens",
        ObjectAnswerer(
            read_token_count,
            lambda provider, call: provider.tokens(call.request, add_special=True),
            write_token_count,
        ),
        errors=ANTHROPIC_ERRORS,
        words=MESSAGES_WORDS,
        document=BodyDocument(
            (*CHAT_MODELS, MessagesBody),
            example={"messages": _HELLO},
            without={*MESSAGES_FOREIGN, "stream", "stream_options"},
        ),
    ),
    Route(
        "/v1/embeddings",
        ObjectAnswerer(
            read_embeddings,
            lambda provider, call: provider.embed(call.request),
            write_embeddings,
            prompt_tokens=lambda embeddings: embeddings.prompt_tokens,
        ),
        document=BodyDocument((EmbeddingsBody,), example={"input": _TEXTS}),
    ),
    Route(
        "/v1/rerank",
        ObjectAnswerer(
            read_rerank,
            lambda provider, call: provider.rank(call.request),
            write_ranking,
            prompt_tokens=lambda ranking: ranking.prompt_tokens,
        ),
        aliases=("/rerank", "/v2/rerank"),
        document=BodyDocument(
            (RerankBody,),
            example={"query": "How is bread made?", "documents": _TEXTS, "top_n": 1},
        ),
    ),
    Route(
        "/tokenize",
        ObjectAnswerer(
            read_tokenize,
            ask_tokens,
            write_tokens,
        ),
        document=BodyDocument((TokenizeBody,), example={"prompt": "The sea is"}),
    ),
    Route(
        "/detokenize",
        ObjectAnswerer(
            read_detokenize,
            lambda provider, call: provider.text(call.tokens),
            write_text,
        ),
        document=BodyDocument((DetokenizeBody,), example={"tokens": [1, 2, 3]}),
    ),
    Route(
        "/api/chat",
        GenerationAnswerer(read_ollama_chat, chat_lines_writer, CHAT_LINES),
        errors=OLLAMA_ERRORS,
        words=OLLAMA_WORDS,
        document=BodyDocument((OllamaChatBody,), example={"messages": _HELLO}),
    ),
    Route(
        "/api/generate",
        GenerationAnswerer(read_ollama_generate, generate_lines_writer, GENERATE_LINES),
        errors=OLLAMA_ERRORS,
        words=OLLAMA_WORDS,
        document=BodyDocument((OllamaGenerateBody,), example={"prompt": "The sea is"}),
    ),
    Route(
        "/api/embed",
        ObjectAnswerer(
            read_embed,
            lambda provider, call: provider.embed(call.request),
            write_embed,
            prompt_tokens=lambda embeddings: embeddings.prompt_tokens,
        ),
        errors=OLLAMA_ERRORS,
        document=BodyDocument((OllamaEmbedBody,), example={"input": _TEXTS}),
    ),
    Route(
        "/api/embeddings",
        ObjectAnswerer(
            read_one_embedding,
            lambda provider, call: provider.embed(call.request),
            write_one_embedding,
            prompt_tokens=lambda embeddings: embeddings.prompt_tokens,
        ),
        errors=OLLAMA_ERRORS,
        document=BodyDocument((OllamaEmbeddingBody,), example={"prompt": _TEXTS[0]}),
    ),
    Route(
        "/api/show",
        CardAnswerer(read_model_name, write_model),
        errors=OLLAMA_ERRORS,
        document=BodyDocument((ModelNameBody,), example={"verbose": False}),
    ),
    Route(
        "/api/pull",
        CardAnswerer(read_model_name, write_pulled),
        errors=OLLAMA_ERRORS,
        document=BodyDocument((ModelNameBody,), example={"stream": False}),
    ),
    Route(
        "/api/tags",
        FactAnswerer(lambda facts, path: write_tags(facts.cards())),
        methods=("GET",),
        errors=OLLAMA_ERRORS,
    ),
    Route(
        "/api/ps",
        FactAnswerer(lambda facts, path: loaded_models(facts.cards(), facts.health())),
        methods=("GET",),
        errors=OLLAMA_ERRORS,
    ),
    Route(
        "/api/version",
        FactAnswerer(lambda facts, path: version_object()),
        methods=("GET",),
        errors=OLLAMA_ERRORS,
    ),
    Route(
        "/props",
        FactAnswerer(lambda facts, path: properties_object(facts.cards())),
        methods=("GET",),
    ),
    Route("/version", FactAnswerer(lambda facts, path: {"version": __version__}), methods=("GET",)),
    Route(MODELS, FactAnswerer(_models), methods=("GET",), has_names=True),
    Route(GENERATE, GenerationAnswerer(read_native, native_writer), methods=()),
    Route(HEALTH, FactAnswerer(lambda facts, path: dict(facts.health())), methods=()),
    Route(METRICS, FactAnswerer(lambda facts, path: {"metrics": facts.metrics()}), methods=()),
)

SERVED_PATHS = tuple(path for route in ROUTES if route.methods for path in route.paths)
"""The paths that are served over HTTP, as error messages list them."""

ERROR_SHAPES = {route.errors.name: route.errors for route in ROUTES}
"""The shapes of errors by their names in the OpenAPI document."""

_OF_STORES = frozenset({"/api/create", "/api/copy", "/api/delete", "/api/push"})
"""Paths by which Ollama's clients change its store of models."""

_BY_PATH = {path: route for route in ROUTES for path in route.paths}
_WITH_NAMES = tuple(route for route in ROUTES if route.has_names)


def find_route(path: str) -> Route | None:
    """Return the route of a path, or None."""
    if (route := _BY_PATH.get(path)) is not None:
        return route
    return next((each for each in _WITH_NAMES if path.startswith(f"{each.path}/")), None)


def error_shape(path: str) -> ErrorShape:
    """Return the shape of errors at a path, also where it has no route."""
    if (route := find_route(path)) is not None:
        return route.errors
    return OLLAMA_ERRORS if path.startswith("/api/") else PLAIN_ERRORS


def stream_form(path: str) -> StreamForm:
    """Return the form of the streams of the route at a path."""
    route = find_route(path)
    answerer = None if route is None else route.answerer
    return answerer.form if isinstance(answerer, GenerationAnswerer) else EVENTS


def plain_path(path: str) -> str:
    """Return a path without doubled slashes, and without one at its end.

    They come from a client's base address put before a path. Names of models may have both.
    """
    path = path.rstrip("/") or "/"
    if any(path.startswith(f"{each.path}/") for each in _WITH_NAMES):
        return path
    return re.sub("/{2,}", "/", path)


def no_route(path: str) -> UnknownRoute:
    """Return the error for a path that has no route; its message lists the paths that exist."""
    if path in _OF_STORES:
        return UnknownRoute(
            f"There is no route {path!r}: models are not made, copied, sent or removed by a "
            "request here. The worker's settings MODEL and MODELS_FILE say what it serves."
        )
    return UnknownRoute(f"There is no route {path[:200]!r}. There are: {', '.join(SERVED_PATHS)}.")
