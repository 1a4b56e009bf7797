"""Chats and completions of the demo model by the official `openai` client, with all their options.

Answers are checked strictly against the client's own types, which the client does not do.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

import jsonschema
import openai
import pytest

from tests.e2e.asks import (
    CHAT_FORMAT,
    CHAT_TOOL,
    COUNTING,
    PERSON,
    QUESTION,
    WEATHER,
    chat,
    complete,
    token_ids,
    valid,
)
from tests.http_worker import Served

pytestmark = pytest.mark.e2e

STORY: Any = {"role": "user", "content": "Tell me a story."}


# --- what is computed ---


def test_the_logprobs_of_a_chat_are_of_its_tokens(client: openai.OpenAI) -> None:
    answer = valid(chat(client, logprobs=True, top_logprobs=5))
    (choice,) = answer.choices
    tokens = choice.logprobs.content
    said = b"".join(bytes(token.bytes) for token in tokens).decode()
    assert said == choice.message.content
    assert len(tokens) == answer.usage.completion_tokens - 1  # the last one ends the answer
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
    streamed = [
        token.token
        for chunk in chunks
        if chunk.choices[0].logprobs
        for token in chunk.choices[0].logprobs.content
    ]
    assert streamed == [token.token for token in whole.logprobs.content]


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


@pytest.mark.parametrize("name", ["frequency_penalty", "presence_penalty", "repeat_penalty"])
def test_a_penalty_keeps_the_model_from_repeating_itself(client: openai.OpenAI, name: str) -> None:
    def words(**more: Any) -> list[str]:
        answer = valid(complete(client, prompt="ha ha ha ha ha ha", max_tokens=24, **more))
        text: str = answer.choices[0].text
        return text.split()

    usual = words()
    assert len(set(usual)) < 3
    own = name == "repeat_penalty"
    held = words(**({"extra_body": {name: 2.0}} if own else {name: 2.0}))
    assert len(set(held)) > len(set(usual))


@pytest.mark.parametrize("extra", [{"top_k": 1}, {"min_p": 1.0}], ids=["top_k", "min_p"])
def test_samplers_that_the_client_does_not_know_are_extra_fields(
    client: openai.OpenAI, extra: dict[str, Any]
) -> None:
    greedy = complete(client).choices[0].text
    hot = {"temperature": 5.0, "seed": 3}
    assert complete(client, **hot).choices[0].text != greedy
    assert valid(complete(client, **hot, extra_body=extra)).choices[0].text == greedy


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_an_answer_has_as_many_tokens_as_it_may(client: openai.OpenAI, name: str) -> None:
    more = {"max_tokens": None, name: 5}
    answer = valid(chat(client, messages=[STORY], **more))
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 5


def test_two_limits_that_differ_are_a_bad_request(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        chat(client, max_tokens=4, max_completion_tokens=5)
    assert refused.value.param in ("max_tokens", "max_completion_tokens")


@pytest.mark.parametrize("ask", [chat, complete])
def test_the_usage_of_a_stream_comes_last_and_only_where_it_is_wanted(
    client: openai.OpenAI, ask: Any
) -> None:
    whole = ask(client)
    chunks = [valid(each) for each in ask(client, stream=True)]
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)
    *chunks, last = [
        valid(each) for each in ask(client, stream=True, stream_options={"include_usage": True})
    ]
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)
    assert last.choices == []
    assert last.usage.total_tokens == whole.usage.total_tokens


def test_the_parts_of_a_text_are_lines_of_one_text(client: openai.OpenAI) -> None:
    lines = ["How many days", "are in a week?"]
    parts = [{"type": "text", "text": line} for line in lines]
    one, several = (
        valid(chat(client, messages=[{"role": "user", "content": content}]))
        for content in ("\n".join(lines), parts)
    )
    assert several.choices[0].message.content == one.choices[0].message.content
    assert several.usage.prompt_tokens == one.usage.prompt_tokens


def test_a_picture_is_a_bad_request_that_names_the_part(client: openai.OpenAI) -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    content = [{"type": "text", "text": "What is this?"}, picture]
    with pytest.raises(openai.BadRequestError) as refused:
        chat(client, messages=[{"role": "user", "content": content}])
    assert str(refused.value.param).startswith("messages[0].content")


def test_a_suffix_is_refused_where_the_vocabulary_has_no_tokens_for_it(
    client: openai.OpenAI,
) -> None:
    with pytest.raises(openai.BadRequestError, match="fill in the middle") as refused:
        complete(client, prompt="def f(", suffix="return 1")
    assert (refused.value.code, refused.value.param) == ("invalid_request", "suffix")


def test_a_model_is_listed_and_found_by_its_name(client: openai.OpenAI) -> None:
    (listed,) = client.models.list().data
    assert valid(listed).id == "demo"
    assert valid(client.models.retrieve("demo")) == listed
    with pytest.raises(openai.NotFoundError) as missing:
        client.models.retrieve("another")
    assert missing.value.code == "model_not_found"


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_says_which_text_stopped_it(client: openai.OpenAI, stream: bool) -> None:
    for stop, reason in (["never", " days"], " days"), (None, None):
        answer = chat(client, stop=stop, stream=stream)
        (choice,) = ([valid(chunk) for chunk in answer][-1] if stream else valid(answer)).choices
        assert (choice.finish_reason, choice.stop_reason) == ("stop", reason)
    answer = complete(client, stop=" 7", n=2, stream=stream)
    chunks = [valid(chunk) for chunk in answer] if stream else [valid(answer)]
    ended = [each for chunk in chunks for each in chunk.choices if each.finish_reason]
    assert [each.stop_reason for each in ended] == [" 7", " 7"]


# --- what has to match, and tools ---


def message_of(answer: Any, *, stream: bool) -> tuple[str | None, list[tuple[str, str]], str]:
    """Return an answer's content, its calls with their arguments, and why it ended."""
    if not stream:
        (choice,) = valid(answer).choices
        calls = choice.message.tool_calls or ()
        return (
            choice.message.content,
            [(each.function.name, each.function.arguments) for each in calls],
            choice.finish_reason,
        )
    content, reasons = "", []
    names: dict[int, str] = {}
    arguments: dict[int, str] = {}
    for chunk in answer:
        (choice,) = valid(chunk).choices
        content += choice.delta.content or ""
        reasons.append(choice.finish_reason)
        for call in choice.delta.tool_calls or ():
            if call.function.name:
                assert call.index not in names
                assert call.id
                names[call.index] = call.function.name
            arguments[call.index] = arguments.get(call.index, "") + call.function.arguments
    assert set(reasons[:-1]) <= {None}
    return content or None, [(names[at], arguments[at]) for at in sorted(names)], reasons[-1]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("choice", "liked", "reason"),
    [
        ("auto", "<", "tool_calls"),
        ("auto", "{", "stop"),
        ("required", "{", "tool_calls"),
        ("none", "<", "stop"),
    ],
)
def test_tools_and_a_schema_together_give_calls_or_a_document(
    served: Served, client: openai.OpenAI, choice: str, liked: str, reason: str, stream: bool
) -> None:
    (bias,) = token_ids(served, liked)  # a call begins with "<", a document with "{"
    answer = chat(
        client, tools=[CHAT_TOOL], tool_choice=choice, response_format=CHAT_FORMAT,
        parallel_tool_calls=False, logit_bias={str(bias): 50}, temperature=1.0, seed=1,
        max_tokens=200, stream=stream,
    )  # fmt: skip
    content, calls, why = message_of(answer, stream=stream)
    assert why == reason
    if reason == "stop":
        assert calls == []
        jsonschema.validate(json.loads(content or ""), PERSON)
        return
    ((name, arguments),) = calls
    assert (content, name) == (None, "get_weather")
    jsonschema.validate(json.loads(arguments), WEATHER)


def test_a_stream_of_calls_is_the_whole_answer_in_pieces(client: openai.OpenAI) -> None:
    ask: dict[str, Any] = {
        "tools": [CHAT_TOOL], "tool_choice": "required", "temperature": 0, "max_tokens": 50,
    }  # fmt: skip
    whole = message_of(chat(client, **ask), stream=False)
    assert message_of(chat(client, **ask, stream=True), stream=True) == whole
    assert whole[1]


def test_a_turn_that_only_called_has_no_content(client: openai.OpenAI) -> None:
    """Send a turn as OpenAI's own answers have it, with `content` null and every other field."""
    function = {"name": "get_weather", "arguments": '{"city": "Bonn", "unit": "celsius"}'}
    call = {"id": "call_1", "type": "function", "function": function}
    turn = {
        "role": "assistant", "content": None, "refusal": None, "annotations": [], "audio": None,
        "function_call": None, "tool_calls": [call],
    }  # fmt: skip
    result = {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "31"}]}
    history = [QUESTION, turn, result]
    answer = valid(chat(client, messages=history, tools=[CHAT_TOOL], tool_choice="none"))
    assert answer.choices[0].message.content
    assert not answer.choices[0].message.tool_calls


@pytest.mark.parametrize("stream", [False, True])
def test_a_json_object_is_an_object(client: openai.OpenAI, stream: bool) -> None:
    answer = chat(
        client, response_format={"type": "json_object"}, max_tokens=60, stream=stream,
        messages=[{"role": "user", "content": 'Write {"days": 7}'}],
    )  # fmt: skip
    content, _, reason = message_of(answer, stream=stream)
    assert reason == "stop"
    assert isinstance(json.loads(content or ""), dict)


@pytest.mark.parametrize(
    "extra",
    [
        {"guided_regex": "[0-9]{3}-[a-f]{2}"},
        {"structured_outputs": {"regex": "[0-9]{3}-[a-f]{2}"}},
        {"grammar": 'root ::= [0-9] [0-9] [0-9] "-" [a-f] [a-f]'},
    ],
    ids=["guided_regex", "structured_outputs", "grammar"],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_matches_a_regex_or_a_grammar(
    client: openai.OpenAI, extra: dict[str, Any], stream: bool
) -> None:
    answer = chat(client, extra_body=extra, seed=1, temperature=1.0, stream=stream)
    content, _, reason = message_of(answer, stream=stream)
    assert re.fullmatch("[0-9]{3}-[a-f]{2}", content or "")
    assert reason == "stop"
