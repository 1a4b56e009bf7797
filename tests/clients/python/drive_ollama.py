"""The ollama package: chats, prompts, and the lists of models."""

import json

from drive import (
    BASE,
    DESCRIPTION,
    GREETING,
    KEY,
    MODEL,
    PARAMETERS,
    PERSON,
    SNOW,
    STORY,
    TOOL,
    WEATHER,
    drive,
    refusal,
    says,
)
from ollama import Client


def opened(key=KEY):
    return Client(host=BASE, headers={"Authorization": f"Bearer {key}"})


client = opened()
described = {"name": TOOL, "description": "Of a city", "parameters": PARAMETERS}
tools = [{"type": "function", "function": described}]


def get_weather(city: str) -> str:
    """Tell the weather of a city.

    Args:
        city: The city's name.
    """
    return SNOW


def total(answer):
    return answer.prompt_eval_count + answer.eval_count


def text():
    answer = client.chat(model=MODEL, messages=says(GREETING))
    return {"text": answer.message.content, "usage": total(answer)}


def stream():
    parts, usage = [], 0
    for part in client.chat(model=MODEL, messages=says(GREETING), stream=True):
        if part.message.content:
            parts.append(part.message.content)
        usage = total(part) if part.done else usage
    return {"text": "".join(parts), "parts": len(parts), "usage": usage}


def two_steps(ask):
    messages = says(WEATHER)
    first = ask(messages)
    (call,) = first.tool_calls
    messages += [first, {"role": "tool", "tool_name": TOOL, "content": SNOW}]
    called = {"name": call.function.name, "arguments": dict(call.function.arguments)}
    return {"text": ask(messages).content, "call": called}


def tool_calls():
    return two_steps(
        lambda messages: client.chat(model=MODEL, messages=messages, tools=[get_weather]).message
    )


def streamed_tools():
    def ask(messages):
        text, calls = "", []
        for part in client.chat(model=MODEL, messages=messages, tools=tools, stream=True):
            message = part.message
            text += message.content or ""
            calls += message.tool_calls or []
        message.content, message.tool_calls = text, calls
        return message

    return two_steps(ask)


def structured():
    answer = client.chat(model=MODEL, messages=says(DESCRIPTION), format=PERSON)
    return {"value": json.loads(answer.message.content)}


def errors():
    def ask(**more):
        return client.chat(**{"model": MODEL, "messages": says("Hi"), **more})

    return {
        "wrong": refusal(lambda: ask(options={"temperature": -3})),
        "unknown": refusal(lambda: ask(model="nobody")),
        "stranger": refusal(lambda: opened("wrong").list()),
    }


def cancel():
    parts = client.chat(model=MODEL, messages=says(STORY), stream=True)
    next(part for part in parts if part.message.content)
    parts.close()
    return {"cancelled": True}


def generate():
    answer = client.generate(model=f"{MODEL}:latest", prompt=GREETING, system="Be brief.")
    parts = list(client.generate(model=MODEL, prompt=GREETING, stream=True))
    return {
        "text": answer.response,
        "usage": total(answer),
        "streamed": "".join(part.response for part in parts),
        "seconds": parts[-1].total_duration / 1e9,
        "loaded": client.generate(model=MODEL, prompt="").done_reason,
    }


def models():
    shown = client.show(MODEL)
    return {
        "listed": [each.model for each in client.list().models],
        "loaded": [each.model for each in client.ps().models],
        "capabilities": shown.capabilities,
        "family": shown.details.family,
        "pulled": client.pull(MODEL).status,
        "parts": [part.status for part in client.pull(MODEL, stream=True)],
        "removed": refusal(lambda: client.delete(MODEL)),
        "copied": refusal(lambda: client.copy(MODEL, "other")),
    }


drive(
    text=text,
    stream=stream,
    tools=tool_calls,
    streamedTools=streamed_tools,
    structured=structured,
    errors=errors,
    cancel=cancel,
    generate=generate,
    models=models,
)
