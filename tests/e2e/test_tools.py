"""Tool calls by the demo model, which knows none by itself, and the official `openai` client."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from tests.http_worker import Served

pytestmark = pytest.mark.e2e

WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 20},
        "unit": {"enum": ["celsius", "fahrenheit"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 7},
    },
    "required": ["city", "unit"],
    "additionalProperties": False,
}
NOTE = {
    "type": "object",
    "properties": {"text": {"type": "string", "maxLength": 30}, "pinned": {"type": "boolean"}},
    "required": ["text", "pinned"],
    "additionalProperties": False,
}
SCHEMAS = {"get_weather": WEATHER, "write_note": NOTE}
TOOLS: Any = [
    {"type": "function", "function": {"name": name, "description": name, "parameters": schema}}
    for name, schema in SCHEMAS.items()
]
QUESTION = {"role": "user", "content": "What will the weather be in Ankara?"}
NAMED = {"type": "function", "function": {"name": "write_note"}}


def ask(served: Served, **more: Any) -> Any:
    with served.client() as client:
        create: Any = client.chat.completions.create
        answer = create(
            **{"model": "demo", "messages": [QUESTION], "tools": TOOLS, "max_tokens": 200, **more}
        )
        return list(answer) if more.get("stream") else answer


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("choice", ["required", NAMED], ids=["required", "named"])
def test_a_call_that_is_demanded_comes_with_valid_arguments(
    served: Served, choice: Any, seed: int
) -> None:
    (answer,) = ask(served, tool_choice=choice, seed=seed, parallel_tool_calls=False).choices
    assert answer.finish_reason == "tool_calls"
    (call,) = answer.message.tool_calls
    assert call.id.startswith("call_")
    if choice is NAMED:
        assert call.function.name == "write_note"
    jsonschema.validate(json.loads(call.function.arguments), SCHEMAS[call.function.name])
    assert answer.message.content is None


def test_the_deltas_of_a_streamed_call_add_up_to_one(served: Served) -> None:
    chunks = ask(served, tool_choice=NAMED, seed=1, stream=True, parallel_tool_calls=False)
    deltas = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or () if call]
    assert deltas[0].function.name == "write_note"
    assert all(delta.id is None for delta in deltas[1:])
    arguments = "".join(delta.function.arguments for delta in deltas)
    jsonschema.validate(json.loads(arguments), NOTE)
    assert len(deltas) > 2
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_the_result_of_a_call_goes_back_to_the_model(served: Served) -> None:
    (first,) = ask(served, tool_choice="required", seed=2, parallel_tool_calls=False).choices
    (call,) = first.message.tool_calls
    result = {"role": "tool", "tool_call_id": call.id, "content": "Sunny, 31 degrees."}
    history = [QUESTION, first.message.model_dump(exclude_none=True), result]
    (answer,) = ask(
        served, messages=history, tool_choice="none", temperature=0, max_tokens=40
    ).choices
    assert answer.message.tool_calls is None
    assert answer.message.content


def test_without_a_choice_the_model_may_answer_in_words(served: Served) -> None:
    (answer,) = ask(served, temperature=0, max_tokens=40).choices
    assert answer.message.content or answer.message.tool_calls


def test_several_answers_each_have_their_own_calls(served: Served) -> None:
    answers = ask(served, tool_choice=NAMED, n=3, seed=4, parallel_tool_calls=False).choices
    assert [answer.index for answer in answers] == [0, 1, 2]
    ids = set()
    for answer in answers:
        (call,) = answer.message.tool_calls
        ids.add(call.id)
        jsonschema.validate(json.loads(call.function.arguments), NOTE)
    assert len(ids) == 3
