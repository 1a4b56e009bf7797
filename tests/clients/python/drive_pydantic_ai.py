"""Pydantic AI, by OpenAI's chats, OpenAI's responses or Anthropic's messages."""

from drive import (
    BASE,
    BY_CALL,
    DESCRIPTION,
    GREETING,
    KEY,
    MODEL,
    OPENAI,
    PERSON_TOOL,
    PROVIDER,
    SNOW,
    STORY,
    WEATHER,
    drive,
    refusal,
)
from pydantic import BaseModel
from pydantic_ai import Agent, ModelSettings, NativeOutput, ToolOutput


class Person(BaseModel):
    """A person."""

    name: str
    age: int


def model(name=MODEL, key=KEY):
    if PROVIDER == "anthropic":
        from anthropic import AsyncAnthropic
        from pydantic_ai.models.anthropic import AnthropicModel
        from pydantic_ai.providers.anthropic import AnthropicProvider

        client = AsyncAnthropic(base_url=BASE, api_key=key, max_retries=0)
        return AnthropicModel(name, provider=AnthropicProvider(anthropic_client=client))
    from openai import AsyncOpenAI
    from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
    from pydantic_ai.providers.openai import OpenAIProvider

    client = AsyncOpenAI(base_url=OPENAI, api_key=key, max_retries=0)
    kind = OpenAIResponsesModel if PROVIDER == "responses" else OpenAIChatModel
    return kind(name, provider=OpenAIProvider(openai_client=client))


async def text():
    answer = await Agent(model()).run(GREETING)
    usage = answer.usage() if callable(answer.usage) else answer.usage
    return {"text": answer.output, "usage": usage.total_tokens}


async def stream():
    async with Agent(model()).run_stream(GREETING) as answer:
        parts = [part async for part in answer.stream_text(delta=True, debounce_by=None)]
        usage = answer.usage() if callable(answer.usage) else answer.usage
    return {"text": "".join(parts), "parts": len(parts), "usage": usage.total_tokens}


def agent_with_weather(calls):
    agent = Agent(model())

    @agent.tool_plain
    def get_weather(city: str) -> str:
        """Tell the weather of a city."""
        calls.append({"name": "get_weather", "arguments": {"city": city}})
        return SNOW

    return agent


async def tool_calls():
    calls = []
    answer = await agent_with_weather(calls).run(WEATHER)
    return {"text": answer.output, "call": calls[0]}


async def streamed_tools():
    calls = []
    async with agent_with_weather(calls).run_stream(WEATHER) as answer:
        return {"text": await answer.get_output(), "call": calls[0]}


async def structured():
    output = ToolOutput(Person, name=PERSON_TOOL)
    answer = await Agent(model(), output_type=output).run(BY_CALL)
    return {"value": answer.output.model_dump()}


async def by_schema():
    answer = await Agent(model(), output_type=NativeOutput(Person)).run(DESCRIPTION)
    return {"value": answer.output.model_dump()}


def errors():
    async def ask(name=MODEL, key=KEY, **settings):
        await Agent(model(name, key), model_settings=ModelSettings(**settings)).run("Hi")

    return {
        "wrong": refusal(lambda: ask(temperature=-3)),
        "unknown": refusal(lambda: ask("nobody")),
        "stranger": refusal(lambda: ask(key="wrong")),
    }


async def cancel():
    async with Agent(model()).run_stream(STORY) as answer:
        async for _ in answer.stream_text(delta=True, debounce_by=None):
            break
    return {"cancelled": True}


drive(
    text=text,
    stream=stream,
    tools=tool_calls,
    streamedTools=streamed_tools,
    structured=structured,
    structuredBySchema=by_schema,
    errors=errors,
    cancel=cancel,
)
