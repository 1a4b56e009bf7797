"""What all drivers share: the worker's place, the questions, and the report on standard output.

A driver gives `drive` a function for each feature. It reports what the client made of the answer,
so that tests/clients/test_python_clients.py can judge it. Only the standard library is used here.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

PLACE: dict[str, Any] = json.loads(os.environ["DRIVE"])
BASE, KEY, MODEL = PLACE["base"], PLACE["key"], PLACE["model"]
OPENAI = f"{BASE}/v1"
PROVIDER = os.environ.get("PROVIDER", "")
GREETING, WEATHER, STORY = PLACE["greeting"], PLACE["weather"], PLACE["story"]
DESCRIPTION, BY_CALL = PLACE["description"], PLACE["byCall"]
BY_JSON_TOOL = PLACE["byJsonTool"]
TOOL, PARAMETERS, SNOW = PLACE["tool"], PLACE["parameters"], PLACE["snow"]
PERSON_TOOL, PERSON = PLACE["personTool"], PLACE["person"]


def says(content: str) -> list[dict[str, str]]:
    """Return a chat of one question."""
    return [{"role": "user", "content": content}]


def refusal(ask: Callable[[], Any]) -> dict[str, Any]:
    """Return the error that a call raises, as its client shows it."""
    try:
        answer = ask()
        if inspect.isawaitable(answer):
            asyncio.run(_awaited(answer))
    except Exception as error:
        return {
            "kind": type(error).__name__,
            "status": next(_statuses(error), None),
            "message": str(error),
        }
    return {"kind": "none"}


def drive(**features: Callable[[], Any]) -> None:
    """Run the features that FEATURES names, with commas; print what each came to as JSON."""
    wanted = os.environ["FEATURES"].split(",")
    results: dict[str, Any] = {}
    for name, ask in features.items():
        if name not in wanted:
            continue
        try:
            answer = ask()
            results[name] = asyncio.run(_awaited(answer)) if inspect.isawaitable(answer) else answer
        except BaseException:
            results[name] = {"failed": traceback.format_exc()}
    # Libraries may print, and may leave threads behind.
    sys.stdout.write("\n" + json.dumps(results) + "\n")
    sys.stdout.flush()
    os._exit(0)


async def _awaited(answer: Any) -> Any:
    return await answer


def _statuses(error: BaseException | None) -> Iterator[int]:
    """Yield the statuses that an error, or what caused it, has."""
    while error is not None:
        for name in ("status_code", "status", "code", "http_status"):
            if isinstance(value := getattr(error, name, None), int):
                yield value
        error = error.__cause__ or error.__context__
