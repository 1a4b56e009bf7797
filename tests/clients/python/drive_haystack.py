"""Haystack, by its generator of chats."""

import os

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"

from drive import (
    DESCRIPTION,
    GREETING,
    KEY,
    MODEL,
    OPENAI,
    PARAMETERS,
    PERSON,
    SNOW,
    STORY,
    TOOL,
    WEATHER,
    drive,
    refusal,
)
from haystack.components.generators.chat import OpenAIChatGenerator
from haystack.dataclasses import ChatMessage
from haystack.tools import Tool
from haystack.utils import Secret


class Enough(Exception):
    """Ends a stream."""


weather = Tool(
    name=TOOL,
    description="Of a city",
    parameters=PARAMETERS,
    function=lambda city: SNOW,
)


def generator(name=MODEL, key=KEY, **more):
    return OpenAIChatGenerator(
        model=name,
        api_key=Secret.from_token(key),
        api_base_url=OPENAI,
        max_retries=0,
        **more,
    )


def ask(content, **more):
    (reply,) = generator(**more).run([ChatMessage.from_user(content)])["replies"]
    return reply


def text():
    reply = ask(GREETING)
    return {"text": reply.text, "usage": reply.meta["usage"]["total_tokens"]}


def stream():
    parts = []
    options = {"stream_options": {"include_usage": True}}
    reply = ask(
        GREETING,
        streaming_callback=lambda chunk: parts.append(chunk.content),
        generation_kwargs=options,
    )
    parts = [part for part in parts if part]
    return {"text": reply.text, "parts": len(parts), "usage": reply.meta["usage"]["total_tokens"]}


def two_steps(**more):
    model = generator(tools=[weather], **more)
    messages = [ChatMessage.from_user(WEATHER)]
    (first,) = model.run(messages)["replies"]
    (call,) = first.tool_calls
    result = ChatMessage.from_tool(weather.invoke(**call.arguments), origin=call)
    (second,) = model.run([*messages, first, result])["replies"]
    called = {"name": call.tool_name, "arguments": call.arguments}
    return {"text": second.text, "call": called}


def tool_calls():
    return two_steps()


def streamed_tools():
    return two_steps(streaming_callback=lambda chunk: None)


def structured():
    import json

    schema = {"name": "person", "schema": PERSON, "strict": True}
    format = {"type": "json_schema", "json_schema": schema}
    reply = ask(DESCRIPTION, generation_kwargs={"response_format": format})
    return {"value": json.loads(reply.text)}


def errors():
    return {
        "wrong": refusal(lambda: ask("Hi", generation_kwargs={"temperature": -3})),
        "unknown": refusal(lambda: ask("Hi", name="nobody")),
        "stranger": refusal(lambda: ask("Hi", key="wrong")),
    }


def cancel():
    def leave(chunk):
        if chunk.content:
            raise Enough

    try:
        ask(STORY, streaming_callback=leave)
    except Enough:
        return {"cancelled": True}
    return {"cancelled": False}


drive(
    text=text,
    stream=stream,
    tools=tool_calls,
    streamedTools=streamed_tools,
    structured=structured,
    errors=errors,
    cancel=cancel,
)
