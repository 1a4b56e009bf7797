"""The demo model behind the official `openai` and `anthropic` clients, over HTTP and on the queue.

What the worker says is checked strictly against the clients' own types, which they do not do themselves.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import jsonschema
import openai
import pytest
from pydantic import BaseModel

from tests.fake_runpod import FakeRunPod, Worker
from tests.http_worker import KEY, Served, http_worker

pytestmark = pytest.mark.e2e

SETTINGS = {"MAX_CONCURRENCY": "8", "SERVED_MODEL_NAME": "demo"}
QUESTION: Any = {"role": "user", "content": "How many days are in a week?"}
COUNTING = "1, 2, 3, 4,"
GREEDY: Any = {"temperature": 0, "max_tokens": 16}
WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 20},
        "unit": {"enum": ["celsius", "fahrenheit"]},
    },
    "required": ["city", "unit"],
    "additionalProperties": False,
}
PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
CHAT_TOOL: Any = {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}}
CHAT_FORMAT: Any = {
    "type": "json_schema",
    "json_schema": {"name": "person", "schema": PERSON, "strict": True},
}
RESPONSES_TOOL: Any = {
    "type": "function", "name": "get_weather", "parameters": WEATHER, "strict": True
}  # fmt: skip
RESPONSES_FORMAT: Any = {
    "format": {"type": "json_schema", "name": "person", "schema": PERSON, "strict": True}
}
MESSAGES_TOOL: Any = {"name": "get_weather", "description": "Of a city", "input_schema": WEATHER}
COLD = {"temperature": 0}
"""The client has no word for it any more."""
ANY_TOOL: Any = {"type": "any", "disable_parallel_tool_use": True}


class Person(BaseModel):
    """As a caller of the clients' `parse` writes a schema."""

    name: str
    age: int


@pytest.fixture
def client(served: Served) -> Iterator[openai.OpenAI]:
    with served.client() as client:
        yield client


@pytest.fixture
def claude(served: Served) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=served.base, api_key=KEY, max_retries=0) as client:
        yield client


def valid(told: Any) -> Any:
    """What a client made of an answer, once its own type has taken it strictly."""
    type(told).model_validate_json(told.to_json(), strict=True)
    return told


def post(served: Served, route: str, body: dict[str, Any]) -> httpx.Response:
    headers = {"Authorization": f"Bearer {KEY}"}
    return httpx.post(served.base + route, json=body, headers=headers, timeout=60)


def token_ids(served: Served, text: str) -> list[int]:
    ids: list[int] = post(served, "/tokenize", {"prompt": text}).json()["tokens"]
    return ids


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
    told = respond(client, **ask, parallel_tool_calls=False, stream=stream)
    if stream:
        events = [valid(event) for event in told]
        deltas = [
            event.delta
            for event in events
            if event.type == "response.function_call_arguments.delta"
        ]
        answer = events[-1].response
        assert "".join(deltas) == answer.output[0].arguments
    else:
        answer = valid(told)
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
    told = respond(
        client, input="Describe a person.", text=RESPONSES_FORMAT, max_output_tokens=200,
        stream=stream,
    )  # fmt: skip
    answer = [valid(event) for event in told][-1].response if stream else valid(told)
    assert answer.status == "completed"
    assert answer.text.format.type == "json_schema"
    jsonschema.validate(json.loads(answer.output_text), PERSON)


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


# --- /v1/chat/completions and /v1/completions ---


def chat(client: openai.OpenAI, **more: Any) -> Any:
    create: Any = client.chat.completions.create
    return create(**{"model": "demo", "messages": [QUESTION], **GREEDY, **more})


def complete(client: openai.OpenAI, **more: Any) -> Any:
    create: Any = client.completions.create
    return create(**{"model": "demo", "prompt": COUNTING, **GREEDY, **more})


def test_the_logprobs_of_a_chat_are_of_its_tokens(client: openai.OpenAI) -> None:
    answer = valid(chat(client, logprobs=True, top_logprobs=5))
    (choice,) = answer.choices
    tokens = choice.logprobs.content
    said = b"".join(bytes(token.bytes) for token in tokens).decode()
    assert said.startswith(choice.message.content)
    assert len(tokens) == answer.usage.completion_tokens
    for token in tokens:
        tops = [top.logprob for top in token.top_logprobs]
        assert len(tops) == 5
        assert tops == sorted(tops, reverse=True)
        assert token.logprob == tops[0]
        assert sum(map(math.exp, tops)) <= 1 + 1e-6


def test_the_logprobs_of_a_completion_are_of_its_tokens(client: openai.OpenAI) -> None:
    answer = valid(complete(client, logprobs=3))
    (choice,) = answer.choices
    logprobs = choice.logprobs
    assert "".join(logprobs.tokens) == choice.text
    assert len(logprobs.tokens) == answer.usage.completion_tokens == 16
    for token, logprob, top, offset in zip(
        logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, logprobs.text_offset,
        strict=True,
    ):  # fmt: skip
        assert choice.text.startswith(token, offset)
        assert max(top.values()) == top[token] == logprob
        assert sum(map(math.exp, top.values())) <= 1 + 1e-6


def test_the_logprobs_of_a_stream_are_those_of_the_whole_chat(client: openai.OpenAI) -> None:
    (whole,) = chat(client, logprobs=True).choices
    chunks = [valid(chunk) for chunk in chat(client, logprobs=True, stream=True)]
    told = [
        token.token
        for chunk in chunks
        if chunk.choices[0].logprobs
        for token in chunk.choices[0].logprobs.content
    ]
    assert told == [token.token for token in whole.logprobs.content]


def test_several_answers_to_one_chat_differ(client: openai.OpenAI) -> None:
    answer = valid(chat(client, n=2, temperature=1.5, seed=1, messages=[QUESTION]))
    first, second = answer.choices
    assert (first.index, second.index) == (0, 1)
    assert first.message.content != second.message.content


def test_several_prompts_are_completed_in_their_order(client: openai.OpenAI) -> None:
    prompts = [COUNTING, "The capital of France is"]
    alone = [complete(client, prompt=prompt).choices[0].text for prompt in prompts]
    answer = valid(complete(client, prompt=prompts, n=2))
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert [choice.text[:4] for choice in answer.choices] == [
        text[:4] for text in alone for _ in range(2)
    ]
    assert answer.usage.completion_tokens <= 4 * 16


def test_the_chunks_of_several_answers_add_up_to_the_whole_ones(client: openai.OpenAI) -> None:
    ask: dict[str, Any] = {"n": 2, "temperature": 1.5, "seed": 1}
    whole = chat(client, **ask).choices
    chunks = [
        valid(chunk)
        for chunk in chat(client, **ask, stream=True, stream_options={"include_usage": True})
    ]
    said = ["", ""]
    for choice in (choice for chunk in chunks for choice in chunk.choices):
        said[choice.index] += choice.delta.content or ""
    assert said == [choice.message.content for choice in whole]
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens > 0


def test_the_clients_own_chat_stream_finds_the_call_that_is_required(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model="demo",
        messages=[QUESTION],
        tools=[CHAT_TOOL],
        tool_choice="required",
        parallel_tool_calls=False,
        temperature=0,
    ) as stream:
        done = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
        final: Any = stream.get_final_completion()
    (call,) = final.choices[0].message.tool_calls
    assert [event.arguments for event in done] == [call.function.arguments]
    jsonschema.validate(json.loads(call.function.arguments), WEATHER)


@pytest.mark.parametrize("echo", [False, True])
def test_the_chunks_of_several_prompts_are_of_their_own_answers(
    client: openai.OpenAI, echo: bool
) -> None:
    prompts = [COUNTING, "The capital of France is"]
    whole = complete(client, prompt=prompts, echo=echo).choices
    said = ["", ""]
    for chunk in complete(client, prompt=prompts, echo=echo, stream=True):
        for choice in chunk.choices:
            said[choice.index] += choice.text
    assert said == [choice.text for choice in whole]
    assert all(text.startswith(prompt) for text, prompt in zip(said, prompts, strict=True)) == echo


def test_token_ids_are_a_prompt_as_their_text_is(served: Served, client: openai.OpenAI) -> None:
    ids = token_ids(served, COUNTING)
    text = complete(client).choices[0].text
    assert valid(complete(client, prompt=ids)).choices[0].text == text
    several = valid(complete(client, prompt=[ids, ids]))
    assert [choice.text[:4] for choice in several.choices] == [text[:4]] * 2
    assert several.usage.prompt_tokens == 2 * len(ids)


def test_an_echo_puts_the_prompt_before_the_answer(served: Served, client: openai.OpenAI) -> None:
    text = complete(client).choices[0].text
    assert valid(complete(client, echo=True)).choices[0].text == COUNTING + text
    ids = token_ids(served, COUNTING)
    assert valid(complete(client, prompt=ids, echo=True)).choices[0].text == COUNTING + text


def test_an_answer_ends_before_its_stop_text(client: openai.OpenAI) -> None:
    text = complete(client).choices[0].text
    assert text.startswith(" 5, 6, 7")
    (choice,) = valid(complete(client, stop=["never", " 7"])).choices
    assert (choice.text, choice.finish_reason) == (" 5, 6,", "stop")
    assert choice.stop_reason == " 7"
    streamed = complete(client, stop=[" 7"], stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == " 5, 6,"


def test_a_seed_gives_the_same_answer_twice(client: openai.OpenAI) -> None:
    ask = {"temperature": 1.2, "max_tokens": 24}
    first, second, other = (
        chat(client, seed=seed, **ask).choices[0].message.content for seed in (7, 7, 8)
    )
    assert first == second != other


def test_a_logit_bias_forbids_and_demands_tokens(served: Served, client: openai.OpenAI) -> None:
    prompt = "The capital of France is"
    (wanted,) = token_ids(served, " dog")
    demanded = complete(client, prompt=prompt, logit_bias={str(wanted): 100}, max_tokens=3)
    assert demanded.choices[0].text == " dog" * 3
    usual = complete(client, prompt=prompt, max_tokens=1).choices[0].text
    (first,) = token_ids(served, usual)
    forbidden = complete(client, prompt=prompt, logit_bias={str(first): -100}, max_tokens=1)
    assert forbidden.choices[0].text != usual


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
        with claude.messages.stream(model="demo", messages=[QUESTION], **ask) as told:
            answer: Any = told.get_final_message()
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


# --- the queue ---

SAME_BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {"messages": [QUESTION], **GREEDY}),
    "call": (
        "/v1/chat/completions",
        {
            "messages": [QUESTION], "tools": [CHAT_TOOL], "tool_choice": "required",
            "parallel_tool_calls": False, "temperature": 0, "max_tokens": 200,
        },
    ),
    "schema": (
        "/v1/chat/completions",
        {"messages": [QUESTION], "response_format": CHAT_FORMAT, "temperature": 0, "max_tokens": 200},
    ),
    "completion": ("/v1/completions", {"prompt": COUNTING, "logprobs": 2, **GREEDY}),
    "response": (
        "/v1/responses",
        {"input": "Hello!", "text": RESPONSES_FORMAT, "temperature": 0, "max_output_tokens": 200},
    ),
    "message": (
        "/v1/messages",
        {
            "messages": [QUESTION], "tools": [MESSAGES_TOOL], "tool_choice": ANY_TOOL,
            "temperature": 0, "max_tokens": 200,
        },
    ),
    "count": ("/v1/messages/count_tokens", {"messages": [QUESTION]}),
    "tokens": ("/tokenize", {"prompt": COUNTING}),
    "text": ("/detokenize", {"tokens": [1, 2, 3]}),
}  # fmt: skip
OWN = frozenset({"id", "call_id", "created", "created_at", "completed_at", "metrics"})
"""What two answers to one request need not share."""


def shared(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: shared(each) for name, each in value.items() if name not in OWN}
    return [shared(each) for each in value] if isinstance(value, list) else value


def answer_of(api: FakeRunPod, route: str, body: dict[str, Any]) -> list[Any]:
    """The items of a job's answer, which has to be one."""
    result = api.wait_done(api.submit({"openai_route": route, "openai_input": body}))
    assert "error" not in result, result
    items: list[Any] = result["output"]
    return items


def events_of(items: list[str]) -> list[dict[str, Any]]:
    """What the server-sent events carry, `[DONE]` apart."""
    lines = [line for line in "".join(items).split("\n") if line.startswith("data: {")]
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def test_the_queue_and_http_give_the_same_answers(
    worker: Callable[..., Worker], runpod_api: FakeRunPod, demo_model: Path, tmp_path: Path
) -> None:
    """One at a time, in one order, by new workers: what they batch and find cached is the same."""
    http = {}
    with http_worker(demo_model, tmp_path / "log", **SETTINGS) as served:
        for name, (route, body) in SAME_BODIES.items():
            answer = post(served, route, body)
            assert answer.status_code == 200, (name, answer.text)
            http[name] = answer.json()
    worker(**SETTINGS)
    for name, (route, body) in SAME_BODIES.items():
        (item,) = answer_of(runpod_api, route, body)
        assert shared(item) == shared(http[name]), name
    (call,) = http["call"]["choices"][0]["message"]["tool_calls"]
    jsonschema.validate(json.loads(call["function"]["arguments"]), WEATHER)
    jsonschema.validate(json.loads(http["schema"]["choices"][0]["message"]["content"]), PERSON)


def test_the_named_events_of_both_apis_come_through_the_queue(
    worker: Callable[..., Worker], runpod_api: FakeRunPod
) -> None:
    worker(**SETTINGS)
    route, body = SAME_BODIES["response"]
    told = events_of(answer_of(runpod_api, route, {**body, "stream": True}))
    assert (told[0]["type"], told[-1]["type"]) == ("response.created", "response.completed")
    (message,) = told[-1]["response"]["output"]
    jsonschema.validate(json.loads(message["content"][0]["text"]), PERSON)
    route, body = SAME_BODIES["message"]
    told = events_of(answer_of(runpod_api, route, {**body, "stream": True}))
    assert (told[0]["type"], told[-1]["type"]) == ("message_start", "message_stop")
    deltas = [each["delta"] for each in told if each["type"] == "content_block_delta"]
    assert {delta["type"] for delta in deltas} == {"input_json_delta"}
    jsonschema.validate(json.loads("".join(delta["partial_json"] for delta in deltas)), WEATHER)
