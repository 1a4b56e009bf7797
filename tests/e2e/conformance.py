"""Hooks of schemathesis for this worker: short answers, and a check of the one shape of errors.

Schemathesis loads this module in its own process, by its name.
"""

from __future__ import annotations

import json
from typing import Any

import schemathesis

_TOKENS = 1
_LIMITS = {
    "/v1/chat/completions": "max_tokens",
    "/v1/completions": "max_tokens",
    "/v1/messages": "max_tokens",
    "/v1/responses": "max_output_tokens",
}
_OLLAMA = "/api/"
_ALIASES = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_FIELDS = {"message", "type", "param", "code"}


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Lower the limit of tokens, unless the case tries a limit that is none."""
    body = case.body
    if isinstance(body, dict) and case.path.startswith(_OLLAMA):
        _limit_options(body)
    if not isinstance(body, dict) or case.path not in _LIMITS:
        return
    given = [name for name in _ALIASES if body.get(name) is not None]
    for name in given:
        if type(body[name]) is int and (body[name] > _TOKENS or body[name] == -1):
            body[name] = _TOKENS
    if not given:
        body[_LIMITS[case.path]] = _TOKENS


def _limit_options(body: dict[str, Any]) -> None:
    """Lower the limit that Ollama's bodies have among their options."""
    options = body.setdefault("options", {})
    if isinstance(options, dict) and type(options.get("num_predict", 0)) is int:
        options["num_predict"] = _TOKENS


@schemathesis.check
def one_error_shape(context: Any, response: Any, case: Any) -> None:
    """Check that every error is said in the same four fields."""
    if response.status_code < 400 or case.path == "/health" or response.request.method == "HEAD":
        return
    body = json.loads(response.content)
    asked = response.request.headers
    if case.path.startswith(_OLLAMA) and "anthropic-version" not in asked:
        assert set(body) == {"error", "type", "param", "code"}, body
        assert isinstance(body["error"], str), body
        return
    anthropic = case.path.startswith("/v1/messages") or "anthropic-version" in asked
    around = {"type", "request_id"} if anthropic else set()
    assert set(body) == {"error"} | around, body
    assert set(body["error"]) == _FIELDS, body
    assert body["error"]["message"], body
