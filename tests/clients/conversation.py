"""What each client library asks in its drive, and what the scripted model says to that.

The questions decide, and not their order, so that drivers may ask side by side and more than once.
"""

from __future__ import annotations

import json
from typing import Any

from tests.clients.notations import NOTATIONS

GREETING = "Greet the reader."
GREETED = "Good morning to you, reader."
WEATHER = "How is the weather in Oslo?"
CITY = {"city": "Oslo"}
SNOW = "Snow, 3 degrees below zero."
SNOWS = "It snows in Oslo."
DESCRIPTION = "Describe Ada as an object."
BY_CALL = "Describe Ada by a call."
ADA = {"name": "Ada", "age": 36}
STORY = "Tell a long story."
LONG = "Once more the sea rose, and fell. " * 400
PACE = 0.002
"""Seconds for each token, so that a long answer is still going on when it is cancelled."""

PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
TOOL = "get_weather"
PERSON_TOOL = "json"
"""The tool whose arguments are the description: as the AI SDK names it, which asks for objects so
where an API has no format for them."""


def asides(family: str) -> dict[str, str]:
    """Return what a model of the family says, by a part of the prompt, for `scripted_worker`."""
    notation = NOTATIONS[family]
    return {
        SNOW: notation.says(SNOWS),
        WEATHER: notation.calls(TOOL, CITY),
        DESCRIPTION: notation.says(json.dumps(ADA)),
        BY_CALL: notation.calls(PERSON_TOOL, ADA),
        STORY: notation.says(LONG),
        GREETING: notation.says(GREETED),
    }
