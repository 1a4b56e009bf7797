"""Bodies of /v1/responses: items become turns, settings a chat's, faults are in its words."""

from __future__ import annotations

from typing import Any

import pytest

from gguf_worker.api.openai import RESPONSES_WORDS, read_responses
from gguf_worker.api.reading import MAX_MESSAGES, GenerationCall
from gguf_worker.errors import ContextLengthExceeded, InvalidRequest
from gguf_worker.providers import ToolChoice

CALL = {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city":"Ye"}'}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "12 °C"}
TOOL = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": True}


def read(**body: Any) -> GenerationCall:
    return read_responses({"input": "Hi", **body}, id="r", deadline=5.0)


def turns(*items: Any, **body: Any) -> list[dict[str, Any]]:
    return [dict(each) for each in read(input=list(items), **body).request.messages or ()]


def fault(**body: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        read(**body)
    assert caught.value.param is not None
    assert f"`{caught.value.param}`" in caught.value.message
    return caught.value


def said(role: str, text: str, kind: str = "input_text") -> dict[str, Any]:
    return {"type": "message", "role": role, "content": [{"type": kind, "text": text}]}


def test_text_alone_is_the_users_turn() -> None:
    call = read(input="Merhaba 🦙")
    assert call.request.messages == ({"role": "user", "content": "Merhaba 🦙"},)
    assert call.request.deadline == 5.0
    assert (call.stream, call.model, call.warnings) == (False, None, ())


def test_instructions_come_first_and_join_what_the_developer_says_at_the_beginning() -> None:
    assert turns(
        said("developer", "B"), said("user", "C"), said("system", "D"), instructions="A"
    ) == [
        {"role": "system", "content": "A\n\nB"},
        {"role": "user", "content": "C"},
        {"role": "system", "content": "D"},
    ]


def test_a_message_needs_no_type_and_its_parts_are_lines() -> None:
    parts = [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]
    assert turns({"role": "user", "content": parts}) == [{"role": "user", "content": "a\nb"}]


def test_what_one_turn_of_the_assistant_had_is_put_together_again() -> None:
    thought = {"type": "reasoning", "id": "rs", "summary": [], "content": [
        {"type": "reasoning_text", "text": "Hm."}
    ]}  # fmt: skip
    other = {**CALL, "call_id": "c2", "id": "fc_2", "status": "completed"}
    assert turns(
        said("user", "Q"), thought, said("assistant", "A", "output_text"), CALL, other
    ) == [
        {"role": "user", "content": "Q"},
        {
            "role": "assistant",
            "content": "A",
            "reasoning_content": "Hm.",
            "tool_calls": [_chat_call("c1"), _chat_call("c2")],
        },
    ]


def _chat_call(id: str) -> dict[str, Any]:
    # The id of a call is not the business of a chat's check, nor its absence.
    function = {"name": "weather", "arguments": '{"city":"Ye"}'}
    return {"id": id, "type": "function", "function": function}


def test_a_call_without_words_has_no_content_and_its_output_is_a_tools_turn() -> None:
    first, second, third = turns(CALL, OUTPUT, said("user", "And now?"))
    assert first["content"] is None
    assert first["tool_calls"][0]["function"]["name"] == "weather"
    assert second == {"role": "tool", "tool_call_id": "c1", "content": "12 °C"}
    assert third["role"] == "user"


def test_an_output_may_have_parts() -> None:
    parts = [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]
    assert turns(CALL, {**OUTPUT, "output": parts})[1]["content"] == "a\nb"


def test_two_turns_of_the_assistant_stay_two() -> None:
    first, second = turns(said("assistant", "A", "output_text"), said("assistant", "B", "text"))
    assert (first["content"], second["content"]) == ("A", "B")


def test_a_thought_after_a_call_opens_another_turn() -> None:
    thought = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]}
    first, second = turns(CALL, thought)
    assert "reasoning_content" not in first
    assert second == {"role": "assistant", "content": "", "reasoning_content": "Hm."}


def test_an_empty_thought_leaves_nothing() -> None:
    assert turns({"type": "reasoning", "summary": []}, said("user", "Q")) == [
        {"role": "user", "content": "Q"}
    ]


def test_a_refusal_is_what_the_assistant_said() -> None:
    message = {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}
    assert turns(message)[0]["content"] == "No."


def test_settings_go_the_way_of_a_chats() -> None:
    call = read(
        max_output_tokens=9,
        temperature=0.5,
        top_p=0.9,
        top_k=5,
        seed=3,
        stop=["x"],
        stream=True,
        model="demo",
        user="u",
        parallel_tool_calls=False,
        reasoning={"effort": "low", "summary": "auto"},
        chat_template_kwargs={"enable_thinking": True},
    )
    request = call.request
    assert (request.max_tokens, request.stop, request.user, request.parallel_calls) == (
        9,
        ("x",),
        "u",
        False,
    )
    assert (
        request.sampling.temperature,
        request.sampling.top_p,
        request.sampling.top_k,
    ) == (0.5, 0.9, 5)
    assert request.template_options == {"reasoning_effort": "low", "enable_thinking": True}
    assert (call.stream, call.model, call.warnings) == (True, "demo", ())


def test_tools_are_flat_here_and_nested_in_the_request() -> None:
    request = read(tools=[TOOL], tool_choice={"type": "function", "name": "weather"}).request
    assert request.tools == (
        {
            "type": "function",
            "function": {"name": "weather", "parameters": {"type": "object"}, "strict": True},
        },
    )
    assert request.tool_choice == ToolChoice("required", "weather")


@pytest.mark.parametrize("choice", ["none", "auto", "required"])
def test_a_choice_is_a_word(choice: Any) -> None:
    assert read(tools=[TOOL], tool_choice=choice).request.tool_choice == ToolChoice(choice)


def test_a_schema_for_the_text_is_a_grammar() -> None:
    format = {"type": "json_schema", "name": "x", "schema": {"type": "object"}, "strict": True}
    call = read(text={"format": format, "verbosity": "medium"})
    assert call.request.grammar is not None
    assert call.request.grammar.kind == "json_schema"
    assert call.grammar_field == "text.format"


@pytest.mark.parametrize(
    ("format", "free"), [({"type": "text"}, True), ({"type": "json_object"}, False), (None, True)]
)
def test_other_formats_need_no_schema(format: Any, free: bool) -> None:
    assert (read(text={"format": format}).request.grammar is None) is free


def test_likely_tokens_are_wanted_where_they_are_included() -> None:
    include = ["message.output_text.logprobs"]
    assert read(include=include, top_logprobs=3).request.logprobs == 3
    assert read(include=include).request.logprobs == 0
    assert read(include=["reasoning.encrypted_content"]).request.logprobs is None
    assert fault(top_logprobs=3).param == "top_logprobs"


@pytest.mark.parametrize(
    "harmless",
    [
        {"store": False},
        {"store": None},
        {"background": False},
        {"truncation": "disabled"},
        {"max_tool_calls": 3},
        {"prompt_cache_key": "k", "prompt_cache_retention": "24h"},
        {"metadata": {"a": "b"}},
        {"previous_response_id": None, "conversation": None, "prompt": None},
        {"include": ["web_search_call.results"]},
        {"reasoning": {"effort": None, "mode": "standard", "context": "auto"}},
        {"stream_options": {"include_obfuscation": False}},
    ],
)
def test_what_changes_nothing_is_taken(harmless: dict[str, Any]) -> None:
    assert read(**harmless).request == read().request
    assert read(**harmless).warnings == ()


@pytest.mark.parametrize(
    ("hint", "word"),
    [
        ({"store": True}, "stored"),
        ({"context_management": [{"type": "compaction"}]}, "context_management"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"text": {"verbosity": "high"}}, "text.verbosity"),
        ({"include": ["moon"]}, "'moon'"),
    ],
)
def test_a_hint_without_effect_is_taken_with_a_warning(hint: dict[str, Any], word: str) -> None:
    call = read(**hint)
    assert call.request == read().request
    (warning,) = call.warnings
    assert word in warning


@pytest.mark.parametrize("given", ["auto", "disabled", None])
def test_the_oldest_turns_may_be_left_out(given: Any) -> None:
    call = read(truncation=given)
    assert call.request.drop_oldest is (given == "auto")
    assert call.warnings == ()


@pytest.mark.parametrize("refused", [{"background": True}, {"previous_response_id": "resp_1"}])
def test_what_does_not_exist_yet_is_refused_with_what_to_do(refused: dict[str, Any]) -> None:
    message = fault(**refused).message
    assert "this version" in message
    assert "send the whole conversation" in message or "wait for the answer" in message


@pytest.mark.parametrize(
    ("refused", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"background": True}, "background"),
        ({"truncation": "middle"}, "truncation"),
        ({"moderation": {"model": "m"}}, "moderation"),
        ({"reasoning": {"effort": "enormous"}}, "reasoning.effort"),
        ({"reasoning": {"mode": "pro"}}, "reasoning.mode"),
        ({"text": {"verbosity": "loud"}}, "text.verbosity"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format"),
        (
            {"text": {"format": {"type": "json_schema", "name": "a b", "schema": {}}}},
            "text.format.name",
        ),
        ({"tools": [{}]}, "tools[0].type"),
        ({"tools": ["web_search"]}, "tools[0]"),
        ({"tools": [{"type": "web_search"}, {"type": "function"}]}, "tools[1].name"),
        ({"tools": [{"type": "namespace", "tools": [TOOL]}]}, "tools[0].name"),
        ({"tools": [{"type": "namespace", "name": "n", "tools": 5}]}, "tools[0].tools"),
        ({"tools": [{"type": "namespace", "name": "n", "tools": [{}]}]}, "tools[0].tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [{**TOOL, "parameters": {"x": "y" * 70_000}}]}, "tools[0].parameters"),
        ({"tools": [TOOL], "tool_choice": {"type": "web_search"}}, "tool_choice.type"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "x"}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": []}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": "perhaps"}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": "9"}, "max_output_tokens"),
        ({"max_tokens": 9}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"response_format": {"type": "text"}}, "response_format"),
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"temperature": "warm"}, "temperature"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"stream_options": {"include_usage": "yes"}}, "stream_options.include_usage"),
    ],
)
def test_what_would_change_the_answer_is_refused_by_its_name(refused: Any, param: str) -> None:
    assert fault(**refused).param == param


@pytest.mark.parametrize(
    ("item", "param"),
    [
        ("Hi", "input[1].type"),
        ({}, "input[1].type"),
        ({"type": ["message"]}, "input[1].type"),
        ({"role": "tool", "content": "x"}, "input[1].role"),
        ({"role": "user"}, "input[1].content"),
        ({"role": "user", "content": 5}, "input[1].content"),
        ({"role": "user", "content": [{"type": "input_text"}]}, "input[1].content[0]"),
        (
            {
                "role": "user",
                "content": [{"type": "input_text", "text": "a"}, {"type": "input_image"}],
            },
            "input[1].content[1].type",
        ),
        ({"role": "user", "content": [{"type": "input_file"}]}, "input[1].content[0].type"),
        ({"role": "user", "content": [{"type": "moon"}]}, "input[1].content[0].type"),
        ({"role": "user", "content": [{"type": ["text"]}]}, "input[1].content[0].type"),
        ({"type": "function_call", "arguments": "{}"}, "input[1].name"),
        ({**CALL, "call_id": 5}, "input[1].call_id"),
        ({**CALL, "arguments": 5}, "input[1].arguments"),
        ({"type": "computer_call", "call_id": 5}, "input[1].call_id"),
        ({"type": "reasoning", "summary": [{}]}, "input[1].summary[0].text"),
    ],
)  # fmt: skip
def test_a_faulty_item_is_named(item: Any, param: str) -> None:
    assert fault(input=[said("user", "Q"), item]).param == param


@pytest.mark.parametrize("given", [5, {}, [said("user", "x")] * (MAX_MESSAGES + 1)])
def test_an_input_that_is_none_is_refused(given: Any) -> None:
    assert fault(input=given).param == "input"


def test_an_input_is_needed() -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_responses({"instructions": "A"}, id="r", deadline=None)
    assert caught.value.param == "input"


def test_text_that_is_no_unicode_is_refused() -> None:
    assert fault(input="\ud83e").param == "input"
    assert fault(input=[said("user", "\ud83e")]).param == "input"


def test_unknown_fields_are_reported() -> None:
    assert read(generation="x").warnings == ("unknown field 'generation' was ignored",)


def test_a_later_failure_is_in_the_callers_words_too() -> None:
    error = ContextLengthExceeded("`messages` are too long; lower `max_tokens`.", param="messages")
    RESPONSES_WORDS.translate(error)
    assert error.param == "input"
    assert error.message == str(error) == "`input` are too long; lower `max_output_tokens`."
