"""Responses by the official `openai` client, messages by `anthropic`'s, and tokens.

Answers are checked strictly against the clients' own types, which the clients do not do.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import jsonschema
import openai
import pytest
from pydantic import BaseModel

from tests.e2e.asks import (
    ANY_TOOL,
    COLD,
    MESSAGES_TOOL,
    PERSON,
    QUESTION,
    RESPONSES_FORMAT,
    RESPONSES_TOOL,
    WEATHER,
    chat,
    post,
    valid,
)
from tests.http_worker import KEY, Served

pytestmark = pytest.mark.e2e


class Person(BaseModel):
    """A schema, as callers of the clients' `parse` write it."""

    name: str
    age: int


@pytest.fixture
def claude(served: Served) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=served.base, api_key=KEY, max_retries=0) as client:
        yield client


# --- /v1/responses ---


def respond(client: openai.OpenAI, **more: Any) -> Any:
    create: Any = client.responses.create
    ask = {"model": "demo", "input": QUESTION["content"], "temperature": 0, "max_output_tokens": 24}
    return create(**{**ask, **more})


def test_a_response_has_text_and_usage(client: openai.OpenAI) -> None:
    answer = valid(respond(client))
    assert answer.status == "completed"
    assert "7 days" in answer.output_text
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
    assert answer.usage.input_tokens > 0
    assert 0 < answer.usage.output_tokens <= 24


def test_a_response_that_is_cut_off_says_so(client: openai.OpenAI) -> None:
    answer = valid(respond(client, input="Write a long story.", max_output_tokens=4))
    assert answer.status == "incomplete"
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert answer.usage.output_tokens == 4


def test_the_events_of_a_response_add_up_to_the_whole_one(client: openai.OpenAI) -> None:
    events = [valid(event) for event in respond(client, stream=True)]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events][:2] == ["response.created", "response.in_progress"]
    assert events[-1].type == "response.completed"
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert len(deltas) > 2
    assert "".join(deltas) == events[-1].response.output_text == respond(client).output_text


def test_the_clients_own_response_stream_finds_the_final_response(client: openai.OpenAI) -> None:
    with client.responses.stream(
        model="demo", input=QUESTION["content"], temperature=0, max_output_tokens=24
    ) as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert "".join(deltas) == final.output_text
    assert final.usage is not None


@pytest.mark.parametrize("stream", [False, True])
def test_a_response_makes_the_call_that_is_required(client: openai.OpenAI, stream: bool) -> None:
    ask = {"tools": [RESPONSES_TOOL], "tool_choice": "required", "max_output_tokens": 200}
    got = respond(client, **ask, parallel_tool_calls=False, stream=stream)
    if stream:
        events = [valid(event) for event in got]
        deltas = [
            event.delta
            for event in events
            if event.type == "response.function_call_arguments.delta"
        ]
        answer = events[-1].response
        assert "".join(deltas) == answer.output[0].arguments
    else:
        answer = valid(got)
    (call,) = answer.output
    assert (call.type, call.name, call.status) == ("function_call", "get_weather", "completed")
    jsonschema.validate(json.loads(call.arguments), WEATHER)


def test_the_result_of_a_responses_call_goes_back_to_the_model(client: openai.OpenAI) -> None:
    first = respond(
        client, tools=[RESPONSES_TOOL], tool_choice="required", parallel_tool_calls=False,
        max_output_tokens=200,
    )  # fmt: skip
    (call,) = first.output
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny."}
    history = [QUESTION, call.to_dict(), result]
    answer = valid(respond(client, input=history))
    assert answer.output_text


@pytest.mark.parametrize("stream", [False, True])
def test_a_response_follows_the_schema_of_its_text(client: openai.OpenAI, stream: bool) -> None:
    got = respond(
        client, input="Describe a person.", text=RESPONSES_FORMAT, max_output_tokens=200,
        stream=stream,
    )  # fmt: skip
    answer = [valid(event) for event in got][-1].response if stream else valid(got)
    assert answer.status == "completed"
    assert answer.text.format.type == "json_schema"
    jsonschema.validate(json.loads(answer.output_text), PERSON)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("choice", ["required", "none"])
def test_a_response_to_tools_and_a_schema_is_a_call_or_a_document(
    client: openai.OpenAI, choice: str, stream: bool
) -> None:
    got = respond(
        client, tools=[RESPONSES_TOOL], tool_choice=choice, text=RESPONSES_FORMAT,
        parallel_tool_calls=False, max_output_tokens=200, stream=stream,
    )  # fmt: skip
    answer = [valid(event) for event in got][-1].response if stream else valid(got)
    (item,) = answer.output
    if choice == "required":
        jsonschema.validate(json.loads(item.arguments), WEATHER)
    else:
        jsonschema.validate(json.loads(item.content[0].text), PERSON)


def test_the_logprobs_of_a_response_are_of_its_tokens(client: openai.OpenAI) -> None:
    answer = valid(respond(client, include=["message.output_text.logprobs"], top_logprobs=2))
    (message,) = answer.output
    (part,) = message.content
    assert "".join(token.token for token in part.logprobs).startswith(part.text)
    for token in part.logprobs:
        assert len(token.top_logprobs) == 2
        assert sum(math.exp(top.logprob) for top in token.top_logprobs) <= 1 + 1e-6


def test_a_response_that_would_need_a_stored_one_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        respond(client, previous_response_id="resp_1")
    assert refused.value.param == "previous_response_id"


# --- /v1/messages ---


def say(claude: anthropic.Anthropic, **more: Any) -> Any:
    create: Any = claude.messages.create
    return create(
        **{"model": "demo", "messages": [QUESTION], "max_tokens": 24, "extra_body": COLD, **more}
    )


def test_a_message_has_text_and_usage(claude: anthropic.Anthropic) -> None:
    answer = valid(say(claude))
    (block,) = answer.content
    assert "7 days" in block.text
    assert (answer.role, answer.stop_reason) == ("assistant", "end_turn")
    assert 0 < answer.usage.output_tokens <= 24
    assert valid(say(claude, max_tokens=2)).stop_reason == "max_tokens"
    stopped = valid(say(claude, stop_sequences=["never", " days"]))
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", " days")


def test_the_events_of_a_message_are_of_the_clients_types(claude: anthropic.Anthropic) -> None:
    events = [valid(event) for event in say(claude, stream=True)]
    kinds = [event.type for event in events]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(kinds[2:-3]) == {"content_block_delta"}


def test_the_clients_own_message_stream_adds_up_to_the_whole_message(
    claude: anthropic.Anthropic,
) -> None:
    with claude.messages.stream(
        model="demo", messages=[QUESTION], max_tokens=24, extra_body=COLD
    ) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == say(claude).content[0].text
    assert final.stop_reason == "end_turn"
    assert final.usage.output_tokens > 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_message_uses_the_tool_that_is_demanded(
    claude: anthropic.Anthropic, stream: bool
) -> None:
    ask: Any = {"tools": [MESSAGES_TOOL], "tool_choice": ANY_TOOL, "max_tokens": 200}
    if stream:
        with claude.messages.stream(model="demo", messages=[QUESTION], **ask) as events:
            answer: Any = events.get_final_message()
    else:
        answer = valid(say(claude, **ask))
    (use,) = answer.content
    assert (use.type, use.name, answer.stop_reason) == ("tool_use", "get_weather", "tool_use")
    jsonschema.validate(use.input, WEATHER)


def test_the_result_of_a_use_goes_back_to_the_model(claude: anthropic.Anthropic) -> None:
    ask: Any = {"tools": [MESSAGES_TOOL]}
    first = say(claude, **ask, tool_choice=ANY_TOOL, max_tokens=200)
    (use,) = first.content
    result = {"type": "tool_result", "tool_use_id": use.id, "content": "Sunny."}
    history = [
        QUESTION,
        {"role": "assistant", "content": [use.to_dict()]},
        {"role": "user", "content": [result]},
    ]
    answer = valid(say(claude, **ask, messages=history, tool_choice={"type": "none"}))
    assert answer.content[0].text


@pytest.mark.parametrize("more", [{}, {"system": "Be short."}, {"tools": [MESSAGES_TOOL]}])
def test_the_counted_tokens_are_those_that_a_message_uses(
    claude: anthropic.Anthropic, more: Any
) -> None:
    counted = valid(claude.messages.count_tokens(model="demo", messages=[QUESTION], **more))
    usage = say(claude, **more, max_tokens=1).usage
    # What was cached is counted apart from the input.
    assert counted.input_tokens == usage.input_tokens + usage.cache_read_input_tokens > 0


def test_a_last_message_of_the_assistant_is_gone_on_from(
    claude: anthropic.Anthropic, client: openai.OpenAI
) -> None:
    begun: Any = {"role": "assistant", "content": "There are 7 days in a week, namely Monday,"}
    text = say(claude, messages=[QUESTION, begun], max_tokens=12).content[0].text
    assert "Tuesday" in text
    named = {"continue_final_message": True, "add_generation_prompt": False}
    for more in ({}, named):
        answer = client.chat.completions.create(
            model="demo", messages=[QUESTION, begun], max_tokens=12, extra_body=COLD | more
        )
        assert answer.choices[0].message.content == text


def test_errors_reach_the_anthropic_client_as_its_own_exceptions(
    served: Served, claude: anthropic.Anthropic
) -> None:
    with pytest.raises(anthropic.NotFoundError):
        say(claude, model="another")
    with pytest.raises(anthropic.BadRequestError, match="temperature"):
        say(claude, extra_body={"temperature": -3})
    with (
        anthropic.Anthropic(base_url=served.base, api_key="wrong", max_retries=0) as stranger,
        pytest.raises(anthropic.AuthenticationError),
    ):
        say(stranger)


# --- answers that the clients read into a class ---


def test_each_api_answers_in_the_shape_of_a_class(
    client: openai.OpenAI, claude: anthropic.Anthropic
) -> None:
    response = client.responses.parse(
        model="demo", input="Describe a person.", text_format=Person, temperature=0
    )
    assert isinstance(response.output_parsed, Person)
    completion = client.chat.completions.parse(
        model="demo", messages=[QUESTION], response_format=Person, temperature=0, max_tokens=200
    )
    assert isinstance(completion.choices[0].message.parsed, Person)
    message = claude.messages.parse(
        model="demo", messages=[QUESTION], output_format=Person, max_tokens=200, extra_body=COLD
    )
    assert isinstance(message.parsed_output, Person)


# --- /tokenize and /detokenize ---


@pytest.mark.parametrize(
    "text", ["Hello, world!", "Merhaba dünya 🦙\n\n  def f():\n\treturn 1", " "]
)
def test_a_text_comes_back_from_its_tokens(served: Served, text: str) -> None:
    answer = post(served, "/tokenize", {"prompt": text}).json()
    assert answer["count"] == len(answer["tokens"]) > 0
    back = post(served, "/detokenize", {"tokens": answer["tokens"]}).json()
    assert back == {"prompt": text, "content": text}


def test_the_tokens_of_a_chat_are_those_that_it_uses(served: Served, client: openai.OpenAI) -> None:
    counted = post(served, "/tokenize", {"messages": [QUESTION]}).json()["count"]
    assert counted == chat(client).usage.prompt_tokens


@pytest.mark.parametrize("token", [-1, 10_000_000, 2**31 - 1, 2**40])
def test_a_token_outside_the_vocabulary_is_a_bad_request(served: Served, token: int) -> None:
    for route, body in (
        ("/detokenize", {"tokens": [1, token]}),
        ("/v1/completions", {"prompt": [1, token], "max_tokens": 1}),
    ):
        answer = post(served, route, body)
        assert answer.status_code == 400, route
        assert answer.json()["error"]["code"] == "invalid_request"


def test_the_tokens_are_behind_the_key(served: Served) -> None:
    assert httpx.post(f"{served.base}/tokenize", json={"prompt": "Hi"}).status_code == 401
    assert httpx.post(f"{served.base}/detokenize", json={"tokens": [1]}).status_code == 401
