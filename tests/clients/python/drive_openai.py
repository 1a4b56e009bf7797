"""The openai package, through chats."""

import json

from drive import (
    DESCRIPTION,
    GREETING,
    KEY,
    MODEL,
    OPENAI,
    PARAMETERS,
    SNOW,
    STORY,
    TOOL,
    WEATHER,
    drive,
    refusal,
    says,
)
from openai import OpenAI
from pydantic import BaseModel

client = OpenAI(base_url=OPENAI, api_key=KEY, max_retries=0)
chats = client.chat.completions
tools = [{"type": "function", "function": {"name": TOOL, "parameters": PARAMETERS, "strict": True}}]


class Person(BaseModel):
    name: str
    age: int


def text():
    answer = chats.create(model=MODEL, messages=says(GREETING))
    return {"text": answer.choices[0].message.content, "usage": answer.usage.total_tokens}


def stream():
    parts, usage = [], 0
    options = {"include_usage": True}
    for chunk in chats.create(
        model=MODEL, messages=says(GREETING), stream=True, stream_options=options
    ):
        if chunk.choices and chunk.choices[0].delta.content:
            parts.append(chunk.choices[0].delta.content)
        usage = chunk.usage.total_tokens if chunk.usage else usage
    return {"text": "".join(parts), "parts": len(parts), "usage": usage}


def two_steps(ask):
    messages = says(WEATHER)
    first = ask(messages)
    (call,) = first.tool_calls
    messages += [
        first.model_dump(exclude={"parsed"}),
        {"role": "tool", "tool_call_id": call.id, "content": SNOW},
    ]
    function = call.function
    called = {"name": function.name, "arguments": json.loads(function.arguments)}
    return {"text": ask(messages).content, "call": called}


def tool_calls():
    return two_steps(
        lambda messages: (
            chats.create(model=MODEL, messages=messages, tools=tools).choices[0].message
        )
    )


def streamed_tools():
    def ask(messages):
        with chats.stream(model=MODEL, messages=messages, tools=tools) as events:
            return events.get_final_completion().choices[0].message

    return two_steps(ask)


def structured():
    answer = chats.parse(model=MODEL, messages=says(DESCRIPTION), response_format=Person)
    return {"value": answer.choices[0].message.parsed.model_dump()}


def errors():
    def chat(**more):
        return chats.create(**{"model": MODEL, "messages": says("Hi"), **more})

    stranger = client.with_options(api_key="wrong")
    return {
        "wrong": refusal(lambda: chat(temperature=-3)),
        "unknown": refusal(lambda: chat(model="nobody")),
        "stranger": refusal(lambda: list(stranger.models.list())),
    }


def cancel():
    answer = chats.create(model=MODEL, messages=says(STORY), stream=True)
    next(chunk for chunk in answer if chunk.choices[0].delta.content)
    answer.close()
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
