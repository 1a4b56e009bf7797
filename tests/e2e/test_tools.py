"""Tool calls by the demo model, which knows none by itself, and the official `openai` client."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import jsonschema
import pytest
from openai import BadRequestError

from tests.http_worker import KEY, Served

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


@pytest.mark.parametrize("seed", range(20))
def test_a_tool_that_is_named_is_called_exactly_once(served: Served, seed: int) -> None:
    (answer,) = ask(served, tool_choice=NAMED, seed=seed).choices
    (call,) = answer.message.tool_calls
    assert call.function.name == "write_note"
    jsonschema.validate(json.loads(call.function.arguments), NOTE)


STRICT: Any = [{**tool, "function": {**tool["function"], "strict": True}} for tool in TOOLS]


def earlier(city: str) -> list[Any]:
    """Return a question and its call, which the demo model then imitates."""
    arguments = json.dumps({"city": city, "unit": "celsius"})
    function = {"name": "get_weather", "arguments": arguments}
    call = {"id": f"call_{city}", "type": "function", "function": function}
    question = f"What will the weather be in {city}?"
    return [
        {"role": "user", "content": question},
        {"role": "assistant", "content": None, "tool_calls": [call]},
    ]


HISTORY = [*earlier("Paris"), *earlier("Rome"), *earlier("Oslo"), QUESTION]


def test_a_call_of_a_strict_tool_is_valid_whenever_the_model_makes_one(served: Served) -> None:
    made: list[Any] = []
    for seed in range(8):
        (answer,) = ask(
            served, messages=HISTORY, tools=STRICT, seed=seed, temperature=1.5, max_tokens=120
        ).choices
        if answer.finish_reason != "length":
            made += answer.message.tool_calls or ()
        assert "tool_call" not in (answer.message.content or "")
    assert made
    for call in made:
        jsonschema.validate(json.loads(call.function.arguments), SCHEMAS[call.function.name])


def test_an_answer_that_may_have_one_call_has_no_more(served: Served) -> None:
    counts = set()
    for seed in range(4):
        (answer,) = ask(
            served, messages=HISTORY, parallel_tool_calls=False, seed=seed, temperature=0.5
        ).choices
        counts.add(len(answer.message.tool_calls or ()))
    assert max(counts) == 1


def test_the_old_functions_are_answered_in_their_form(served: Served) -> None:
    functions = [tool["function"] for tool in TOOLS]
    with served.client() as client:
        create: Any = client.chat.completions.create
        (answer,) = create(
            model="demo",
            messages=[QUESTION],
            functions=functions,
            function_call={"name": "write_note"},
            max_tokens=200,
            seed=1,
        ).choices
    assert answer.finish_reason == "function_call"
    jsonschema.validate(json.loads(answer.message.function_call.arguments), NOTE)


def test_a_custom_tools_text_matches_its_regular_expression(served: Served) -> None:
    grammar = {"type": "grammar", "grammar": {"syntax": "regex", "definition": "[a-z]{3,9}[.]"}}
    tool = {"type": "custom", "custom": {"name": "mcp:say/it", "format": grammar}}
    choice = {"type": "custom", "custom": {"name": "mcp:say/it"}}
    (answer,) = ask(served, tools=[tool], tool_choice=choice, seed=1).choices
    (call,) = answer.message.tool_calls
    assert call.custom.name == "mcp:say/it"
    assert re.fullmatch("[a-z]{3,9}[.]", call.custom.input)


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


REPORT = {
    "type": "object",
    "properties": {"place": {"type": "string", "maxLength": 20}, "sunny": {"type": "boolean"}},
    "required": ["place", "sunny"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "report", "schema": REPORT}}


def token(served: Served, text: str) -> str:
    headers = {"Authorization": f"Bearer {KEY}"}
    body = {"prompt": text, "add_special_tokens": False}
    answer = httpx.post(f"{served.base}/tokenize", json=body, headers=headers)
    (id,) = answer.json()["tokens"]
    return str(id)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("liked", ["<", "{"])
def test_with_tools_and_a_schema_an_answer_is_calls_or_a_document(
    served: Served, liked: str, seed: int
) -> None:
    bias = {token(served, liked): 50}
    more = {"response_format": FORMAT, "seed": seed, "logit_bias": bias}
    (answer,) = ask(served, parallel_tool_calls=False, **more).choices
    if liked == "{":
        assert answer.finish_reason == "stop"
        assert answer.message.tool_calls is None
        jsonschema.validate(json.loads(answer.message.content), REPORT)
        return
    assert answer.finish_reason == "tool_calls"
    assert answer.message.content is None
    (call,) = answer.message.tool_calls
    jsonschema.validate(json.loads(call.function.arguments), SCHEMAS[call.function.name])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("choice", ["none", "required"])
def test_a_choice_of_tools_says_whether_the_schema_counts(
    served: Served, choice: str, seed: int
) -> None:
    more = {"response_format": FORMAT, "seed": seed, "parallel_tool_calls": False}
    (answer,) = ask(served, tool_choice=choice, **more).choices
    if choice == "none":
        jsonschema.validate(json.loads(answer.message.content), REPORT)
    else:
        assert answer.message.tool_calls


@pytest.mark.parametrize("fault", ["response_format", "tools"])
def test_a_schema_that_cannot_be_followed_is_named_beside_the_other(
    served: Served, fault: str
) -> None:
    bad = {"type": "array", "uniqueItems": True}
    unusable = {
        "type": "json_schema",
        "json_schema": {"name": "report", "schema": bad, "strict": True},
    }
    function = {"name": "f", "parameters": {"properties": {"a": bad}}, "strict": True}
    tool = {"type": "function", "function": function}
    more: Any = {
        "response_format": {"response_format": unusable},
        "tools": {"response_format": FORMAT, "tools": [tool]},
    }[fault]
    with pytest.raises(BadRequestError, match="uniqueItems") as caught:
        ask(served, **more)
    assert str(caught.value.param).startswith(fault)
