"""The anthropic package."""

from anthropic import Anthropic
from drive import (
    BASE,
    BY_CALL,
    GREETING,
    KEY,
    MODEL,
    PARAMETERS,
    PERSON,
    PERSON_TOOL,
    SNOW,
    STORY,
    TOOL,
    WEATHER,
    drive,
    refusal,
    says,
)

client = Anthropic(base_url=BASE, api_key=KEY, max_retries=0)
USUAL = {"model": MODEL, "max_tokens": 4096}
tools = [{"name": TOOL, "description": "Of a city", "input_schema": PARAMETERS}]


def text_of(message):
    return "".join(block.text for block in message.content if block.type == "text")


def called(message):
    return next(block for block in message.content if block.type == "tool_use")


def total(usage):
    return usage.input_tokens + usage.output_tokens


def text():
    answer = client.messages.create(**USUAL, messages=says(GREETING))
    return {"text": text_of(answer), "usage": total(answer.usage)}


def stream():
    with client.messages.stream(**USUAL, messages=says(GREETING)) as events:
        parts = list(events.text_stream)
        usage = total(events.get_final_message().usage)
    return {"text": "".join(parts), "parts": len(parts), "usage": usage}


def two_steps(ask):
    messages = says(WEATHER)
    first = ask(messages)
    call = called(first)
    result = {"type": "tool_result", "tool_use_id": call.id, "content": SNOW}
    messages += [
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": [result]},
    ]
    return {"text": text_of(ask(messages)), "call": {"name": call.name, "arguments": call.input}}


def tool_calls():
    return two_steps(
        lambda messages: client.messages.create(**USUAL, messages=messages, tools=tools)
    )


def streamed_tools():
    def ask(messages):
        with client.messages.stream(**USUAL, messages=messages, tools=tools) as events:
            return events.get_final_message()

    return two_steps(ask)


def structured():
    answer = client.messages.create(
        **USUAL,
        messages=says(BY_CALL),
        tools=[{"name": PERSON_TOOL, "description": "A person", "input_schema": PERSON}],
        tool_choice={"type": "tool", "name": PERSON_TOOL},
    )
    return {"value": called(answer).input}


def errors():
    def ask(on=client, **more):
        return on.messages.create(**{**USUAL, "messages": says("Hi"), **more})

    return {
        "wrong": refusal(lambda: ask(temperature=-3)),
        "unknown": refusal(lambda: ask(model="nobody")),
        "stranger": refusal(lambda: ask(client.with_options(api_key="wrong"))),
    }


def cancel():
    with client.messages.stream(**USUAL, messages=says(STORY)) as events:
        next(iter(events.text_stream))
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
