"""OpenAI's Agents SDK, by chats or by responses."""

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from drive import (
    DESCRIPTION,
    GREETING,
    KEY,
    MODEL,
    OPENAI,
    PROVIDER,
    SNOW,
    STORY,
    WEATHER,
    drive,
    refusal,
)
from openai import AsyncOpenAI
from pydantic import BaseModel

set_tracing_disabled(True)
calls = []


class Person(BaseModel):
    name: str
    age: int


@function_tool
def get_weather(city: str) -> str:
    """Tell the weather of a city."""
    calls.append({"name": "get_weather", "arguments": {"city": city}})
    return SNOW


def agent(name=MODEL, key=KEY, **more):
    client = AsyncOpenAI(base_url=OPENAI, api_key=key, max_retries=0)
    kind = OpenAIResponsesModel if PROVIDER == "responses" else OpenAIChatCompletionsModel
    usual = {"model_settings": ModelSettings(include_usage=True)}
    return Agent(name="driver", model=kind(model=name, openai_client=client), **{**usual, **more})


async def text():
    answer = await Runner.run(agent(), GREETING)
    usage = answer.context_wrapper.usage.total_tokens
    return {"text": answer.final_output, "usage": usage}


async def in_parts(answer):
    parts = []
    async for event in answer.stream_events():
        if event.type != "raw_response_event":
            continue
        if event.data.type == "response.output_text.delta":
            parts.append(event.data.delta)
    return parts


async def stream():
    answer = Runner.run_streamed(agent(), GREETING)
    parts = await in_parts(answer)
    usage = answer.context_wrapper.usage.total_tokens
    return {"text": "".join(parts), "parts": len(parts), "usage": usage}


async def tool_calls():
    answer = await Runner.run(agent(tools=[get_weather]), WEATHER)
    return {"text": answer.final_output, "call": calls[0]}


async def streamed_tools():
    answer = Runner.run_streamed(agent(tools=[get_weather]), WEATHER)
    await in_parts(answer)
    return {"text": answer.final_output, "call": calls[0]}


async def structured():
    answer = await Runner.run(agent(output_type=Person), DESCRIPTION)
    return {"value": answer.final_output.model_dump()}


def errors():
    async def ask(*given, **more):
        await Runner.run(agent(*given, **more), "Hi")

    return {
        "wrong": refusal(lambda: ask(model_settings=ModelSettings(temperature=-3))),
        "unknown": refusal(lambda: ask("nobody")),
        "stranger": refusal(lambda: ask(key="wrong")),
    }


async def cancel():
    answer = Runner.run_streamed(agent(), STORY)
    async for event in answer.stream_events():
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
            answer.cancel()
    return {"cancelled": True}


drive(
    text=text,
    stream=stream,
    tools=tool_calls,
    streamedTools=streamed_tools,
    structured=structured,
    errors=errors,
    cancel=cancel,
)
