"""What schemathesis is told of this worker: to ask for short answers, and the one shape of an error.

Loaded in its own process, by the name of this module.
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
_ALIASES = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_FIELDS = {"message", "type", "param", "code"}


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Few tokens, where the limit is one at all."""
    body = case.body
    if not isinstance(body, dict) or case.path not in _LIMITS:
        return
    given = [name for name in _ALIASES if body.get(name) is not None]
    for name in given:
        if type(body[name]) is int and (body[name] > _TOKENS or body[name] == -1):
            body[name] = _TOKENS
    if not given:
        body[_LIMITS[case.path]] = _TOKENS


@schemathesis.check
def one_error_shape(context: Any, response: Any, case: Any) -> None:
    """Whatever goes wrong is said in the same four fields, and when to try again where that helps."""
    if response.status_code < 400 or case.path == "/health" or response.request.method == "HEAD":
        return
    body = json.loads(response.content)
    asked = response.request.headers
    anthropic = case.path.startswith("/v1/messages") or "anthropic-version" in asked
    around = {"type", "request_id"} if anthropic else set()
    assert set(body) == {"error"} | around, body
    assert set(body["error"]) == _FIELDS, body
    assert body["error"]["message"], body
