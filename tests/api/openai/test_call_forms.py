"""Calls in the forms of OpenAI's routes: functions, custom tools, and the old functions."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseCustomToolCall

from gguf_worker.api.writing import LARGEST_TEXT, ApiReply, Body, EventText
from gguf_worker.providers import Finish, ToolCallDelta
from tests.api_doors import Bench, call, sse
from tests.fakes import USAGE, ScriptedProvider

HELLO = [{"role": "user", "content": "Hi"}]
CUSTOM = {"type": "custom", "custom": {"name": "patch"}}
FUNCTION = {"name": "weather", "parameters": {"type": "object"}}
CALLED = Finish("tool_calls", USAGE)


def calling(text: str, *, custom: bool) -> ScriptedProvider:
    name = "patch" if custom else "weather"
    return ScriptedProvider(
        ToolCallDelta(0, "", 1, id="call_a", name=name, custom=custom),
        ToolCallDelta(0, text[:3], 1, custom=custom),
        ToolCallDelta(0, text[3:], 1, custom=custom),
        CALLED,
    )


async def asked(provider: ScriptedProvider, route: str, **body: Any) -> list[ApiReply]:
    return await Bench(provider).ask(call(route, body))


async def whole(provider: ScriptedProvider, route: str, **body: Any) -> Any:
    (reply,) = await asked(provider, route, **body)
    assert isinstance(reply, Body)
    return reply.data


async def chunks(provider: ScriptedProvider, **body: Any) -> list[ChatCompletionChunk]:
    replies = await asked(provider, "/v1/chat/completions", stream=True, **body)
    events = [each.removeprefix("data: ") for each in sse(replies).split("\n\n") if each]
    assert events[-1] == "[DONE]"
    # As the client reads them: its type of a delta knows no custom tool.
    return [ChatCompletionChunk.construct(**json.loads(each)) for each in events[:-1]]


async def test_a_custom_tools_call_has_its_input_in_a_chat() -> None:
    data = await whole(
        calling("*** x\n", custom=True), "/v1/chat/completions", messages=HELLO, tools=[CUSTOM]
    )
    answer = ChatCompletion.model_validate_json(json.dumps(data), strict=True)
    calls = answer.choices[0].message.tool_calls
    assert calls is not None
    (made,) = calls
    assert made.type == "custom"
    assert (made.custom.name, made.custom.input) == ("patch", "*** x\n")
    assert answer.choices[0].finish_reason == "tool_calls"


async def test_a_custom_tools_call_is_streamed_as_its_input() -> None:
    text = "*** " + "x" * LARGEST_TEXT
    deltas: list[Any] = [
        made.to_dict()
        for chunk in await chunks(calling(text, custom=True), messages=HELLO, tools=[CUSTOM])
        for choice in chunk.choices
        for made in choice.delta.tool_calls or ()
    ]
    assert deltas[0]["type"] == "custom"
    assert deltas[0]["custom"]["name"] == "patch"
    assert "".join(each["custom"]["input"] for each in deltas) == text
    assert len(deltas) > 3


async def test_a_custom_tools_call_is_an_item_of_its_own_kind_of_a_response() -> None:
    provider = calling("*** x\n", custom=True)
    data = await whole(provider, "/v1/responses", input="Hi")
    (item,) = Response.model_validate_json(json.dumps(data), strict=True).output
    assert isinstance(item, ResponseCustomToolCall)
    assert (item.name, item.input, item.call_id) == ("patch", "*** x\n", "call_a")
    replies = await asked(calling("*** x\n", custom=True), "/v1/responses", input="Hi", stream=True)
    assert all(isinstance(reply, EventText) for reply in replies)
    data = [
        json.loads(line.removeprefix("data: "))
        for line in sse(replies).splitlines()
        if line.startswith("data: ")
    ]
    kind = "response.custom_tool_call_input"
    deltas = [each["delta"] for each in data if each["type"] == f"{kind}.delta"]
    (done,) = [each for each in data if each["type"] == f"{kind}.done"]
    assert "".join(deltas) == done["input"] == "*** x\n"


@pytest.mark.parametrize("choice", [None, "auto", {"name": "weather"}])
async def test_the_old_functions_are_answered_in_their_form(choice: Any) -> None:
    body = {"messages": HELLO, "functions": [FUNCTION], "function_call": choice}
    data = await whole(calling('{"a": 1}', custom=False), "/v1/chat/completions", **body)
    answer = ChatCompletion.model_validate_json(json.dumps(data), strict=True)
    message = answer.choices[0].message
    assert message.function_call is not None
    assert message.function_call.name == "weather"
    assert message.function_call.arguments == '{"a": 1}'
    assert message.tool_calls is None
    assert answer.choices[0].finish_reason == "function_call"
    streamed = await chunks(calling('{"a": 1}', custom=False), **body)
    deltas = [each.choices[0].delta.function_call for each in streamed]
    made = [each for each in deltas if each is not None]
    assert [each.name for each in made] == ["weather", None, None]
    assert "".join(each.arguments or "" for each in made) == '{"a": 1}'
    assert streamed[-1].choices[0].finish_reason == "function_call"


@pytest.mark.parametrize("functions", [None, []])
async def test_without_old_functions_a_call_is_in_todays_form(functions: Any) -> None:
    data = await whole(
        calling("{}", custom=False), "/v1/chat/completions", messages=HELLO, functions=functions
    )
    (made,) = data["choices"][0]["message"]["tool_calls"]
    assert made["function"] == {"name": "weather", "arguments": "{}"}
    assert data["choices"][0]["finish_reason"] == "tool_calls"
