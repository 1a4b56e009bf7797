"""LiteLLM, by OpenAI's, Anthropic's or Ollama's API."""

import json
import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm
from drive import (
    BASE,
    BY_JSON_TOOL,
    DESCRIPTION,
    GREETING,
    KEY,
    MODEL,
    OPENAI,
    PARAMETERS,
    PERSON,
    PROVIDER,
    SNOW,
    STORY,
    TOOL,
    WEATHER,
    drive,
    refusal,
    says,
)

litellm.telemetry = False
described = {"name": TOOL, "description": "Of a city", "parameters": PARAMETERS}
tools = [{"type": "function", "function": described}]


def ask(name=MODEL, key=KEY, **more):
    base = OPENAI if PROVIDER == "openai" else BASE
    usual = {"model": f"{PROVIDER}/{name}", "api_base": base, "api_key": key, "num_retries": 0}
    return litellm.completion(**{**usual, "max_tokens": 4096, **more})


def text():
    answer = ask(messages=says(GREETING))
    return {"text": answer.choices[0].message.content, "usage": answer.usage.total_tokens}


def stream():
    parts, usage = [], 0
    options = {"include_usage": True}
    for chunk in ask(messages=says(GREETING), stream=True, stream_options=options):
        if chunk.choices and chunk.choices[0].delta.content:
            parts.append(chunk.choices[0].delta.content)
        if getattr(chunk, "usage", None):
            usage = chunk.usage.total_tokens
    return {"text": "".join(parts), "parts": len(parts), "usage": usage}


def two_steps(message_of):
    messages = says(WEATHER)
    first = message_of(messages)
    (call,) = first.tool_calls
    messages += [
        first.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "name": TOOL, "content": SNOW},
    ]
    function = call.function
    called = {"name": function.name, "arguments": json.loads(function.arguments)}
    return {"text": message_of(messages).content, "call": called}


def tool_calls():
    return two_steps(lambda messages: ask(messages=messages, tools=tools).choices[0].message)


def streamed_tools():
    def message_of(messages):
        chunks = list(ask(messages=messages, tools=tools, stream=True))
        return litellm.stream_chunk_builder(chunks, messages=messages).choices[0].message

    return two_steps(message_of)


def structured():
    schema = {"name": "person", "schema": PERSON, "strict": True}
    format = {"type": "json_schema", "json_schema": schema}
    # It asks for a schema by a tool of its own, where a provider has calls only.
    question = BY_JSON_TOOL if PROVIDER == "anthropic" else DESCRIPTION
    answer = ask(messages=says(question), response_format=format)
    return {"value": json.loads(answer.choices[0].message.content)}


def errors():
    return {
        "wrong": refusal(lambda: ask(messages=says("Hi"), temperature=-3)),
        "unknown": refusal(lambda: ask("nobody", messages=says("Hi"))),
        "stranger": refusal(lambda: ask(key="wrong", messages=says("Hi"))),
    }


def cancel():
    parts = ask(messages=says(STORY), stream=True)
    next(part for part in parts if part.choices[0].delta.content)
    del parts
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
