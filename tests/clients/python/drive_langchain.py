"""LangChain, over the provider's own package: langchain-openai or langchain-anthropic."""

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
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from pydantic import create_model

Person = create_model(PERSON_TOOL, __doc__="A person.", name=(str, ...), age=(int, ...))


@tool
def get_weather(city: str) -> str:
    """Tell the weather of a city."""
    return SNOW


def model(**more):
    if PROVIDER == "anthropic":
        from langchain_anthropic import ChatAnthropic

        usual = {"model": MODEL, "base_url": BASE, "api_key": KEY, "max_tokens": 4096}
        return ChatAnthropic(**{**usual, "max_retries": 0, **more})
    from langchain_openai import ChatOpenAI

    usual = {"model": MODEL, "base_url": OPENAI, "api_key": KEY, "stream_usage": True}
    responses = {"use_responses_api": True} if PROVIDER == "responses" else {}
    return ChatOpenAI(**{**usual, "max_retries": 0, **responses, **more})


def text_of(message):
    content = message.content
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content if isinstance(part, dict))


def text():
    answer = model().invoke(GREETING)
    return {"text": text_of(answer), "usage": answer.usage_metadata["total_tokens"]}


def stream():
    parts, whole = [], None
    for chunk in model().stream(GREETING):
        whole = chunk if whole is None else whole + chunk
        if text_of(chunk):
            parts.append(text_of(chunk))
    usage = whole.usage_metadata["total_tokens"]
    return {"text": "".join(parts), "parts": len(parts), "usage": usage}


def two_steps(ask):
    messages = [HumanMessage(WEATHER)]
    first = ask(messages)
    (call,) = first.tool_calls
    result = get_weather.invoke(call["args"])
    messages += [first, ToolMessage(result, tool_call_id=call["id"])]
    called = {"name": call["name"], "arguments": call["args"]}
    return {"text": text_of(ask(messages)), "call": called}


def tool_calls():
    bound = model().bind_tools([get_weather])
    return two_steps(bound.invoke)


def streamed_tools():
    bound = model().bind_tools([get_weather])

    def ask(messages):
        first, *others = bound.stream(messages)
        for each in others:
            first += each
        return first

    return two_steps(ask)


def structured():
    by_call = PROVIDER == "anthropic"
    asked = model().with_structured_output(Person)
    return {"value": asked.invoke(BY_CALL if by_call else DESCRIPTION).model_dump()}


def errors():
    return {
        "wrong": refusal(lambda: model(temperature=-3).invoke("Hi")),
        "unknown": refusal(lambda: model(model="nobody").invoke("Hi")),
        "stranger": refusal(lambda: model(api_key="wrong").invoke("Hi")),
    }


def cancel():
    parts = model().stream(STORY)
    next(part for part in parts if text_of(part))
    parts.close()
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
