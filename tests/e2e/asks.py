"""Requests that the end-to-end tests send to the demo model, and checks of its answers."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai

from tests.http_worker import KEY, Served

SETTINGS = {"MAX_CONCURRENCY": "8", "SERVED_MODEL_NAME": "demo"}
QUESTION: Any = {"role": "user", "content": "How many days are in a week?"}
COUNTING = "1, 2, 3, 4,"
GREEDY: Any = {"temperature": 0, "max_tokens": 16}
WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 20},
        "unit": {"enum": ["celsius", "fahrenheit"]},
    },
    "required": ["city", "unit"],
    "additionalProperties": False,
}
PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
CHAT_TOOL: Any = {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}}
CHAT_FORMAT: Any = {
    "type": "json_schema",
    "json_schema": {"name": "person", "schema": PERSON, "strict": True},
}
RESPONSES_TOOL: Any = {
    "type": "function", "name": "get_weather", "parameters": WEATHER, "strict": True
}  # fmt: skip
RESPONSES_FORMAT: Any = {
    "format": {"type": "json_schema", "name": "person", "schema": PERSON, "strict": True}
}
MESSAGES_TOOL: Any = {"name": "get_weather", "description": "Of a city", "input_schema": WEATHER}
COLD = {"temperature": 0}
"""Greedy, for a client whose `create` has no argument for it any more."""
ANY_TOOL: Any = {"type": "any", "disable_parallel_tool_use": True}


def valid(answer: Any) -> Any:
    """Check a client's answer strictly against the client's own type, and return it."""
    answer.model_validate_json(checkable(answer.to_dict()), strict=True)
    return answer


def checkable(answer: dict[str, Any]) -> str:
    """Return an answer as JSON that its type accepts.

    The type of a completion's chunk is that of the whole completion, where the reason can't be
    null, as it is until the end.
    """
    if answer.get("object") == "text_completion":
        choices = [
            {**each, "finish_reason": each["finish_reason"] or "stop"} for each in answer["choices"]
        ]
        answer = {**answer, "choices": choices}
    return json.dumps(answer)


def post(served: Served, route: str, body: dict[str, Any]) -> httpx.Response:
    headers = {"Authorization": f"Bearer {KEY}"}
    return httpx.post(served.base + route, json=body, headers=headers, timeout=60)


def token_ids(served: Served, text: str) -> list[int]:
    ids: list[int] = post(served, "/tokenize", {"prompt": text}).json()["tokens"]
    return ids


def chat(client: openai.OpenAI, **more: Any) -> Any:
    create: Any = client.chat.completions.create
    return create(**{"model": "demo", "messages": [QUESTION], **GREEDY, **more})


def complete(client: openai.OpenAI, **more: Any) -> Any:
    create: Any = client.completions.create
    return create(**{"model": "demo", "prompt": COUNTING, **GREEDY, **more})
