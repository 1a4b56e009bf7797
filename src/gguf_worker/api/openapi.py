"""The OpenAPI document of all that is served over HTTP, made from the shapes that check what is sent.

Knows no transport: it is a value, the same for every worker of one version.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from gguf_worker import __version__
from gguf_worker.api.anthropic import MESSAGES_FOREIGN, MessagesBody
from gguf_worker.api.anthropic_wire import error_type
from gguf_worker.api.embeddings import MAX_INPUTS, EmbeddingsBody
from gguf_worker.api.gateway import (
    CHAT,
    COMPLETIONS,
    COUNT_TOKENS,
    DETOKENIZE,
    EMBEDDINGS,
    MESSAGES,
    MODELS,
    RERANK,
    RESPONSES,
    SAME_ROUTES,
    TOKENIZE,
)
from gguf_worker.api.rerank import MAX_DOCUMENTS, RerankBody
from gguf_worker.api.responses import RESPONSES_FOREIGN, ResponsesBody
from gguf_worker.api.schema import ALIASES, CHAT_SHAPES, COMPLETION_SHAPES
from gguf_worker.api.tokens import DetokenizeBody, TokenizeBody
from gguf_worker.errors import ERRORS_BY_CODE, WorkerError

Shapes = Sequence[type[BaseModel]]

_SHAPES: Mapping[str, Shapes] = {
    CHAT: CHAT_SHAPES,
    COMPLETIONS: COMPLETION_SHAPES,
    RESPONSES: (*CHAT_SHAPES, ResponsesBody),
    MESSAGES: (*CHAT_SHAPES, MessagesBody),
    COUNT_TOKENS: (*CHAT_SHAPES, MessagesBody),
    EMBEDDINGS: (EmbeddingsBody,),
    RERANK: (RerankBody,),
    TOKENIZE: (TokenizeBody,),
    DETOKENIZE: (DetokenizeBody,),
}
"""What checks the body of each route, together; of a route that is not here any object is said to do.

A later one's fields count before those of the same name.
"""

_WITHOUT: Mapping[str, Collection[str]] = {
    RESPONSES: RESPONSES_FOREIGN,
    MESSAGES: MESSAGES_FOREIGN,
    COUNT_TOKENS: {*MESSAGES_FOREIGN, "stream", "stream_options"},
}
"""Fields of the shapes that have no place in the body of a route."""

_ALSO_REQUIRED: Mapping[str, Sequence[str]] = {MESSAGES: ("max_tokens",)}

_HELLO = [{"role": "user", "content": "Hello"}]

EXAMPLES: Mapping[str, Mapping[str, Any]] = {
    CHAT: {"messages": _HELLO, "max_tokens": 40, "stream": True},
    COMPLETIONS: {"prompt": "The sea is", "max_tokens": 40},
    RESPONSES: {"input": "Hello", "max_output_tokens": 40},
    MESSAGES: {"messages": _HELLO, "max_tokens": 40},
    COUNT_TOKENS: {"messages": _HELLO},
    EMBEDDINGS: {"input": ["The sea is wide.", "Bread needs flour."]},
    RERANK: {
        "query": "How is bread made?",
        "documents": ["The sea is wide.", "Bread needs flour."],
        "top_n": 1,
    },
    TOKENIZE: {"prompt": "The sea is"},
    DETOKENIZE: {"tokens": [1, 2, 3]},
}
"""A body for each route."""

_REF = "#/components/schemas/"
_JSON = "application/json"

_TEXT = {"type": "string"}
_ANY = {"type": "object"}
_SOME_TEXT = {"type": "string", "minLength": 1}
_OBJECTS = {"type": "array", "items": _ANY, "minItems": 1}
_TOKENS = {
    "type": "array",
    "items": {"type": "integer", "minimum": 0, "maximum": 2**31 - 1},
    "minItems": 1,
}

_WIDER: Mapping[tuple[str, str], Mapping[str, Any]] = {
    ("Common", "stop"): {"anyOf": [_TEXT, {"type": "array", "items": _TEXT, "maxItems": 16}]},
    ("Prompt", "prompt"): {
        "anyOf": [
            _SOME_TEXT,
            _TOKENS,
            {"type": "array", "items": {"anyOf": [_SOME_TEXT, _TOKENS]}, "minItems": 1},
        ]
    },
    ("EmbeddingsBody", "input"): {
        "anyOf": [
            _SOME_TEXT,
            _TOKENS,
            {"type": "array", "items": _SOME_TEXT, "minItems": 1, "maxItems": MAX_INPUTS},
            {"type": "array", "items": _TOKENS, "minItems": 1, "maxItems": MAX_INPUTS},
        ]
    },
    ("RerankBody", "documents"): {
        "type": "array",
        "items": {
            "anyOf": [
                _TEXT,
                {"type": "object", "properties": {"text": _TEXT}, "required": ["text"]},
            ]
        },
        "minItems": 1,
        "maxItems": MAX_DOCUMENTS,
    },
    ("Common", "max_tokens"): {
        "anyOf": [{"const": -1}, {"type": "integer", "minimum": 1, "maximum": 2**31 - 1}]
    },
    ("Message", "content"): {"anyOf": [_TEXT, _OBJECTS, {"type": "null"}]},
    ("ResponsesBody", "input"): {"anyOf": [_TEXT, _OBJECTS]},
    ("MessagesBody", "messages"): {
        **_OBJECTS,
        "examples": [[{"role": "user", "content": "How many days are in a week?"}]],
    },
    ("MessagesBody", "system"): {"anyOf": [_TEXT, {"type": "array", "items": _ANY}]},
}
"""Fields of which a shape's own schema does not know all: other forms are accepted, or values are not."""

_ERRORS = {MESSAGES: "AnthropicError", COUNT_TOKENS: "AnthropicError"}
"""What errors of a route are, where they are not the one shape."""

_EVENTS = "Server-sent events, where `stream` is true."


def openapi_document(posts: Sequence[str]) -> dict[str, Any]:
    """The document where `posts` are the routes that take a body."""
    schemas = _schemas({_same(route): _SHAPES.get(_same(route), ()) for route in posts})
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "GGUF worker",
            "version": __version__,
            "summary": "A GGUF model behind OpenAI's API.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        # The first: where no API_KEY is set.
        "security": [{}, {"bearer": []}, {"header": []}],
        "paths": {route: {"post": _post(route, schemas)} for route in posts} | _gets(),
        "components": {
            "schemas": schemas | _error_schemas(),
            "responses": {
                name: _answer("What is wrong, and what to do.", _REF + name)
                for name in _error_schemas()
            },
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
            },
        },
    }


def body_name(route: str) -> str:
    """What the body of a route is called: `/v1/chat/completions` takes a `ChatCompletionsBody`."""
    words = _same(route).removeprefix("/v1").replace("_", "/").split("/")
    return "".join(word.capitalize() for word in words) + "Body"


def _same(route: str) -> str:
    return SAME_ROUTES.get(route, route)


def _post(route: str, schemas: Mapping[str, Any]) -> dict[str, Any]:
    name = body_name(route)
    answer = _answer("The answer.")
    if "stream" in schemas[name]["properties"]:
        answer["content"]["text/event-stream"] = {"schema": {"description": _EVENTS}}
    content = {_JSON: {"schema": {"$ref": _REF + name}, "example": EXAMPLES[_same(route)]}}
    # Two routes that do the same are still two operations.
    path = route.replace("/", "_") if route in SAME_ROUTES else ""
    return {
        "operationId": name.removesuffix("Body") + path,
        "requestBody": {"required": True, "content": content},
        "responses": {"200": answer, **_failure(_ERRORS.get(route, "Error"))},
    }


def _gets() -> dict[str, Any]:
    name = {"name": "name", "in": "path", "required": True, "schema": _TEXT}
    starting = {"204": {"description": "It is starting."}}
    unfit = {"503": {"description": "It cannot serve."}}
    return {
        MODELS: _get("ListModels", {"200": _answer("The served model, as a list."), **_failure()}),
        MODELS + "/{name}": _get(
            "GetModel", {"200": _answer("The model."), **_failure()}, parameters=[name]
        ),
        "/ping": _get(
            "Ping", {"200": {"description": "It is ready."}, **starting, **unfit}, security=[]
        ),
        "/health": _get(
            "Health",
            {"200": _answer("State and load."), "503": _answer("The same, where it is not ready.")},
            security=[],
        ),
        "/metrics": _get("Metrics", {"200": _text("Prometheus text.", "text/plain")}, security=[]),
        "/openapi.json": _get("Document", {"200": _answer("This document.")}, security=[]),
        "/": _get("Page", {"200": _text("A page to try it by hand.", "text/html")}, security=[]),
    }


def _get(name: str, responses: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {"get": {"operationId": name, "responses": responses, **more}}


def _answer(description: str, ref: str | None = None) -> dict[str, Any]:
    schema = _ANY if ref is None else {"$ref": ref}
    return {"description": description, "content": {_JSON: {"schema": schema}}}


def _text(description: str, kind: str) -> dict[str, Any]:
    return {"description": description, "content": {kind: {"schema": _TEXT}}}


def _error_schemas() -> dict[str, Any]:
    errors = ERRORS_BY_CODE.values()
    return {
        "Error": _error_schema(errors, sorted({error.type for error in errors})),
        "AnthropicError": _anthropic_error_schema(errors),
    }


def _failure(name: str = "Error") -> dict[str, Any]:
    return {"default": {"$ref": f"#/components/responses/{name}"}}


def _anthropic_error_schema(errors: Iterable[type[WorkerError]]) -> dict[str, Any]:
    """The same error with what Anthropic's clients look for around it."""
    known = list(errors)
    schema = _error_schema(known, sorted({error_type(error) for error in known}))
    around = {"type": {"const": "error"}, "request_id": _TEXT}
    return {
        **schema,
        "properties": schema["properties"] | around,
        "required": [*schema["required"], *around],
    }


def _error_schema(errors: Iterable[type[WorkerError]], types: Sequence[str]) -> dict[str, Any]:
    """The one shape of every error; its codes are stable."""
    known = list(errors)
    fields = {
        "message": _TEXT,
        "type": {"enum": list(types)},
        "param": {"type": ["string", "null"], "description": "The field that is at fault."},
        "code": {"enum": sorted(error.code for error in known)},
    }
    error = {"type": "object", "properties": fields, "required": list(fields)}
    return {"type": "object", "properties": {"error": error}, "required": ["error"]}


def _schemas(bodies: Mapping[str, Shapes]) -> dict[str, Any]:
    """The bodies, and the definitions that they refer to, by their names."""
    shapes = dict.fromkeys(shape for each in bodies.values() for shape in each)
    refs, given = models_json_schema(
        [(shape, "validation") for shape in shapes], ref_template=_REF + "{model}"
    )
    definitions = {
        name: _completed(name, each) for name, each in _renamed(given.get("$defs", {})).items()
    }
    names = {shape: _public(ref["$ref"].removeprefix(_REF)) for (shape, _), ref in refs.items()}
    whole = {
        body_name(route): _joined(
            [definitions[names[shape]] for shape in each],
            without=_WITHOUT.get(route, ()),
            also_required=_ALSO_REQUIRED.get(route, ()),
        )
        for route, each in bodies.items()
    }
    parts = {name: each for name, each in definitions.items() if name not in names.values()}
    return parts | whole


def _joined(
    shapes: Iterable[Mapping[str, Any]], *, without: Collection[str], also_required: Sequence[str]
) -> dict[str, Any]:
    """One object with the fields of all. Null means the default, so what may be left out may be null."""
    fields: dict[str, Any] = {}
    required = dict.fromkeys(also_required)
    for shape in shapes:
        fields |= shape.get("properties", {})
        required |= dict.fromkeys(shape.get("required", []))
    fields |= {alias: fields[name] for alias, name in ALIASES.items() if name in fields}
    properties = {
        name: each if name in required else _or_null(each)
        for name, each in sorted(fields.items())
        if name not in without
    }
    needed = [name for name in required if name not in without]
    return {"type": "object", "properties": properties, "required": needed}


def _or_null(field: Mapping[str, Any]) -> dict[str, Any]:
    null = {"type": "null"}
    choices = field.get("anyOf", [field])
    return {"anyOf": choices if null in choices else [*choices, null]}


def _completed(name: str, definition: Mapping[str, Any]) -> dict[str, Any]:
    fields = {
        field: _WIDER.get((name, field), each)
        for field, each in definition.get("properties", {}).items()
    }
    return {**definition, "properties": fields} if fields else dict(definition)


def _renamed(value: Any) -> Any:
    """Without the underscores that mark our own classes as private."""
    if isinstance(value, dict):
        return {
            _public(key) if isinstance(inner, dict) else key: (
                _REF + _public(inner.removeprefix(_REF)) if key == "$ref" else _renamed(inner)
            )
            for key, inner in value.items()
        }
    return [_renamed(each) for each in value] if isinstance(value, list) else value


def _public(name: str) -> str:
    return name.removeprefix("_")
