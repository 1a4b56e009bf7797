"""LlamaIndex, by its package for servers that are like OpenAI's."""

from drive import (
    BY_CALL,
    GREETING,
    KEY,
    MODEL,
    OPENAI,
    PERSON_TOOL,
    SNOW,
    STORY,
    WEATHER,
    drive,
    refusal,
)
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import create_model

Person = create_model(PERSON_TOOL, __doc__="A person.", name=(str, ...), age=(int, ...))


def get_weather(city: str) -> str:
    """Tell the weather of a city."""
    return SNOW


weather = FunctionTool.from_defaults(get_weather)


def model(**more):
    usual = {
        "model": MODEL,
        "api_base": OPENAI,
        "api_key": KEY,
        "is_chat_model": True,
        "is_function_calling_model": True,
        "context_window": 32768,
        "max_retries": 0,
    }
    return OpenAILike(**{**usual, **more})


def asks(content):
    return [ChatMessage(role="user", content=content)]


def text():
    answer = model().chat(asks(GREETING))
    return {"text": answer.message.content, "usage": answer.raw.usage.total_tokens}


def stream():
    parts = [each.delta for each in model().stream_chat(asks(GREETING)) if each.delta]
    return {"text": "".join(parts), "parts": len(parts), "usage": None}


def two_steps(ask, called):
    messages = asks(WEATHER)
    first = ask(messages)
    (call,) = called(first)
    result = weather.call(**call.tool_kwargs).content
    messages += [
        first.message,
        ChatMessage(role="tool", content=result, additional_kwargs={"tool_call_id": call.tool_id}),
    ]
    return {
        "text": ask(messages).message.content,
        "call": {"name": call.tool_name, "arguments": call.tool_kwargs},
    }


def tool_calls():
    llm = model()

    def called(answer):
        return llm.get_tool_calls_from_response(answer, error_on_no_tool_call=False)

    return two_steps(lambda messages: llm.chat_with_tools([weather], chat_history=messages), called)


def streamed_tools():
    llm = model()

    def ask(messages):
        *_, last = llm.stream_chat_with_tools([weather], chat_history=messages)
        return last

    def called(answer):
        return llm.get_tool_calls_from_response(answer, error_on_no_tool_call=False)

    return two_steps(ask, called)


def structured():
    answer = model().as_structured_llm(Person).chat(asks(BY_CALL))
    return {"value": answer.raw.model_dump()}


def errors():
    def ask(**more):
        return model(**more).chat(asks("Hi"))

    return {
        "wrong": refusal(lambda: ask(temperature=-3)),
        "unknown": refusal(lambda: ask(model="nobody")),
        "stranger": refusal(lambda: ask(api_key="wrong")),
    }


def cancel():
    parts = model().stream_chat(asks(STORY))
    next(part for part in parts if part.delta)
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
