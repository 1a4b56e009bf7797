"""Objects of OpenAI's chats that other dialects use too: logprobs, deltas of calls, stops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from gguf_worker.generation import TokenLogprob
from gguf_worker.providers import ToolCallDelta

_LEAST_LOGPROB = -9999.0

UNREADABLE = "unreadable_arguments"
"""The field of a call's arguments for a text that is no JSON object, such as a cut-off one."""


def call_arguments(text: str) -> dict[str, Any]:
    """Return a call's arguments as an object, for the dialects that have no text there."""
    try:
        value = msgspec.json.decode(text or "{}")
    except (msgspec.DecodeError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {UNREADABLE: text}


def stop_reason(stop: str | int | None) -> dict[str, Any]:
    """Return vLLM's field for the stop string or token that ended an answer, or null."""
    return {"stop_reason": stop}


def call_delta(delta: ToolCallDelta) -> dict[str, Any]:
    """Return the beginning of a call, or more of its arguments or of a custom tool's input."""
    kind, field = ("custom", "input") if delta.custom else ("function", "arguments")
    if delta.name is None:
        return {"index": delta.call, kind: {field: delta.text}}
    named = {"name": delta.name, field: delta.text}
    return {"index": delta.call, "id": delta.id, "type": kind, kind: named}


def chat_logprobs(logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
    """Return the logprobs of a chat: one object for each token."""
    content = [
        {
            **_token(each.piece, each.logprob),
            "top_logprobs": [_token(piece, logprob) for _, piece, logprob in each.top],
        }
        for each in logprobs
    ]
    return {"content": content, "refusal": None}


def prompt_logprobs(logprobs: Sequence[TokenLogprob], likeliest: int) -> dict[str, Any]:
    """Return vLLM's field for the logprobs of a prompt: by token id, null for the first token.

    `likeliest`: how many were asked for; the rank of a token behind them is not known.
    """
    return {"prompt_logprobs": [_by_token(each, likeliest) for each in logprobs]}


def _by_token(each: TokenLogprob, likeliest: int) -> dict[str, Any] | None:
    if each.logprob is None:
        return None
    entries = each.top or ((each.token, each.piece, each.logprob),)
    return {
        str(token): {
            "logprob": shown_logprob(logprob),
            "rank": rank if rank <= likeliest else None,
            "decoded_token": shown_token(piece),
        }
        for rank, (token, piece, logprob) in enumerate(entries, 1)
    }


def _token(piece: bytes, logprob: float | None) -> dict[str, Any]:
    return {"token": shown_token(piece), "logprob": shown_logprob(logprob), "bytes": list(piece)}


def shown_token(piece: bytes) -> str:
    """Return the text of a token; bytes of an incomplete character become U+FFFD."""
    return piece.decode("utf-8", "replace")


def shown_logprob(logprob: float | None) -> float | None:
    """Return a finite number: JSON has no infinity, and OpenAI sends -9999 for "impossible".

    None stays None: nothing is before the first token of a prompt.
    """
    return None if logprob is None else max(logprob, _LEAST_LOGPROB)
