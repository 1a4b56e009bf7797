"""The openai package, through responses."""

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
responses = client.responses
tools = [{"type": "function", "name": TOOL, "parameters": PARAMETERS, "strict": True}]


class Person(BaseModel):
    name: str
    age: int


def text():
    answer = responses.create(model=MODEL, input=GREETING)
    return {"text": answer.output_text, "usage": answer.usage.total_tokens}


def stream():
    with responses.stream(model=MODEL, input=GREETING) as events:
        parts = [each.delta for each in events if each.type == "response.output_text.delta"]
        final = events.get_final_response()
    return {"text": "".join(parts), "parts": len(parts), "usage": final.usage.total_tokens}


def two_steps(ask):
    items = says(WEATHER)
    first = ask(items)
    (call,) = (each for each in first.output if each.type == "function_call")
    items += [each.model_dump(exclude={"parsed_arguments"}) for each in first.output]
    items.append({"type": "function_call_output", "call_id": call.call_id, "output": SNOW})
    called = {"name": call.name, "arguments": json.loads(call.arguments)}
    return {"text": ask(items).output_text, "call": called}


def tool_calls():
    return two_steps(lambda items: responses.create(model=MODEL, input=items, tools=tools))


def streamed_tools():
    def ask(items):
        with responses.stream(model=MODEL, input=items, tools=tools) as events:
            return events.get_final_response()

    return two_steps(ask)


def structured():
    answer = responses.parse(model=MODEL, input=DESCRIPTION, text_format=Person)
    return {"value": answer.output_parsed.model_dump()}


def errors():
    def ask(**more):
        return responses.create(**{"model": MODEL, "input": "Hi", **more})

    stranger = client.with_options(api_key="wrong")
    return {
        "wrong": refusal(lambda: ask(temperature=-3)),
        "unknown": refusal(lambda: ask(model="nobody")),
        "stranger": refusal(lambda: list(stranger.models.list())),
    }


def cancel():
    events = responses.create(model=MODEL, input=STORY, stream=True)
    next(each for each in events if each.type == "response.output_text.delta")
    events.close()
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
