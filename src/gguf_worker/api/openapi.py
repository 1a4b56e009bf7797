"""The OpenAPI document of the HTTP front, made from the models that check bodies.

The document is a plain value, the same for every worker of one version.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic.json_schema import models_json_schema

from gguf_worker import __version__
from gguf_worker.api.ollama import OLLAMA_ERRORS
from gguf_worker.api.reading import ALIASES, ANY_OBJECT, TEXT
from gguf_worker.api.routes import ERROR_SHAPES, MODELS, BodyDocument, Route, stream_form
from gguf_worker.api.writing import PLAIN_ERRORS, ErrorShape
from gguf_worker.errors import ERRORS_BY_CODE

_REF = "#/components/schemas/"
_JSON = "application/json"

_EVENTS = "Server-sent events, where `stream` is true."
_LINES = "Lines of JSON, unless `stream` is false."


def openapi_document(routes: Iterable[Route]) -> dict[str, Any]:
    """Return the document of a worker that serves these routes."""
    documented = {route: route.document for route in routes if route.document is not None}
    schemas = _schemas({body_name(route): body for route, body in documented.items()})
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "GGUF worker",
            "version": __version__,
            "summary": "A GGUF model behind OpenAI's API.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        # The first alternative, no key, is for workers without an API_KEY.
        "security": [{}, {"bearer": []}, {"header": []}],
        "paths": dict(_posts(documented, schemas)) | _gets(),
        "components": {
            "schemas": schemas | {name: _error_schema(each) for name, each in ERROR_SHAPES.items()},
            "responses": {
                name: _answer("What is wrong, and what to do.", _REF + name)
                for name in ERROR_SHAPES
            },
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
            },
        },
    }


def body_name(route: Route) -> str:
    """Return the name of a route's body: `/v1/chat/completions` takes a `ChatCompletionsBody`."""
    words = route.path.removeprefix("/v1").replace("_", "/").split("/")
    return "".join(word.capitalize() for word in words) + "Body"


def _posts(
    documented: Mapping[Route, BodyDocument], schemas: Mapping[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    for route, body in documented.items():
        for path in route.paths:
            yield path, {"post": _post(route, body, path, schemas)}


def _post(
    route: Route, body: BodyDocument, path: str, schemas: Mapping[str, Any]
) -> dict[str, Any]:
    name = body_name(route)
    answer = _answer("The answer.")
    if "stream" in schemas[name]["properties"] and route.generates:
        kind = stream_form(path).content_type.partition(";")[0]
        words = _LINES if route.streams({}) else _EVENTS
        answer["content"][kind] = {"schema": {"description": words}}
    content = {_JSON: {"schema": {"$ref": _REF + name}, "example": body.example}}
    # Two paths of one route are still two operations.
    alias = path.replace("/", "_") if path in route.aliases else ""
    return {
        "operationId": name.removesuffix("Body") + alias,
        "requestBody": {"required": True, "content": content},
        "responses": {"200": answer, **_failure(route.errors)},
    }


def _gets() -> dict[str, Any]:
    name = {"name": "name", "in": "path", "required": True, "schema": TEXT}
    starting = {"204": {"description": "It is starting."}}
    unfit = {"503": {"description": "It cannot serve."}}
    return {
        MODELS: _get("ListModels", {"200": _answer("The served model, as a list."), **_failure()}),
        MODELS + "/{name}": _get(
            "GetModel", {"200": _answer("The model."), **_failure()}, parameters=[name]
        ),
        "/api/tags": _get("Tags", {"200": _answer("The models."), **_failure(OLLAMA_ERRORS)}),
        "/api/ps": _get(
            "Loaded", {"200": _answer("The models in memory."), **_failure(OLLAMA_ERRORS)}
        ),
        "/api/version": _get(
            "Version", {"200": _answer("The API's version."), **_failure(OLLAMA_ERRORS)}
        ),
        "/props": _get("GetProperties", {"200": _answer("Facts, as llama-server has them.")}),
        "/version": _get("GetVersion", {"200": _answer("The worker's version.")}),
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
    schema = ANY_OBJECT if ref is None else {"$ref": ref}
    return {"description": description, "content": {_JSON: {"schema": schema}}}


def _text(description: str, kind: str) -> dict[str, Any]:
    return {"description": description, "content": {kind: {"schema": TEXT}}}


def _failure(errors: ErrorShape = PLAIN_ERRORS) -> dict[str, Any]:
    return {"default": {"$ref": f"#/components/responses/{errors.name}"}}


def _error_schema(shape: ErrorShape) -> dict[str, Any]:
    """Return the schema of every error in a dialect's shape; its codes are stable."""
    known = list(ERRORS_BY_CODE.values())
    fields = {
        "message": TEXT,
        "type": {"enum": sorted({shape.type_of(error) for error in known})},
        "param": {"type": ["string", "null"], "description": "The field that is at fault."},
        "code": {"enum": sorted(error.code for error in known)},
    }
    if shape.flat:
        flat = {"error": fields.pop("message"), **fields, **shape.around}
        return {"type": "object", "properties": flat, "required": list(flat)}
    error = {"type": "object", "properties": fields, "required": list(fields)}
    return {
        "type": "object",
        "properties": {"error": error, **shape.around},
        "required": ["error", *shape.around],
    }


def _schemas(bodies: Mapping[str, BodyDocument]) -> dict[str, Any]:
    """Return the schemas of the bodies, and the definitions that they refer to, by name."""
    models = dict.fromkeys(model for body in bodies.values() for model in body.models)
    refs, given = models_json_schema(
        [(model, "validation") for model in models], ref_template=_REF + "{model}"
    )
    definitions = dict(given.get("$defs", {}))
    names = {model: ref["$ref"].removeprefix(_REF) for (model, _), ref in refs.items()}
    whole = {
        name: _joined(
            [definitions[names[model]] for model in body.models],
            without=body.without,
            also_required=body.also_required,
        )
        for name, body in bodies.items()
    }
    parts = {name: each for name, each in sorted(definitions.items()) if name not in names.values()}
    return parts | whole


def _joined(
    models: Iterable[Mapping[str, Any]], *, without: Collection[str], also_required: Sequence[str]
) -> dict[str, Any]:
    """Return one schema with the fields of all models; optional fields may also be null."""
    fields: dict[str, Any] = {}
    required = dict.fromkeys(also_required)
    for model in models:
        fields |= model.get("properties", {})
        required |= dict.fromkeys(model.get("required", []))
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
