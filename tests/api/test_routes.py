"""The registry: each path leads to one route, whose facts all others read."""

from __future__ import annotations

import pytest

from gguf_worker.api.routes import ERROR_SHAPES, ROUTES, SERVED_PATHS, find_route, no_route
from tests.api_doors import call


def test_no_path_leads_to_two_routes() -> None:
    paths = [path for route in ROUTES for path in route.paths]
    assert len(set(paths)) == len(paths)


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("/v1/chat/completions", "/v1/chat/completions"),
        ("/rerank", "/v1/rerank"),
        ("/v2/rerank", "/v1/rerank"),
        ("/v1/models", "/v1/models"),
        ("/v1/models/org/name", "/v1/models"),
        ("generate", "generate"),
        ("health", "health"),
        ("metrics", "metrics"),
        ("/v1/modelsx", "unknown"),
        ("/v1/chat/completions/", "unknown"),
        ("", "unknown"),
    ],
)
def test_a_calls_label_is_its_routes_first_path(path: str, label: str) -> None:
    assert call(path).label == label


def test_an_unknown_path_is_told_the_paths_that_are_served_over_http() -> None:
    message = no_route("/x").message
    assert all(path in message for path in SERVED_PATHS)
    assert "health" not in message
    assert SERVED_PATHS[-1] == "/v1/models"


def test_only_a_route_that_generates_streams() -> None:
    streaming = {route.path for route in ROUTES if call(route.path, {"stream": True}).stream}
    assert streaming == {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
        "generate",
    }


def test_every_route_that_takes_a_body_over_http_is_documented() -> None:
    for route in ROUTES:
        assert ("POST" in route.methods) == (route.document is not None)


def test_one_shape_of_errors_has_one_schema() -> None:
    assert set(ERROR_SHAPES) == {"Error", "AnthropicError"}
    route = find_route("/v1/messages")
    assert route is not None
    assert ERROR_SHAPES["AnthropicError"] is route.errors
