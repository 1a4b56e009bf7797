"""Bodies of /v1/messages: blocks become turns, settings a chat's, faults are in its words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gguf_worker.api.anthropic import MESSAGES_WORDS, read_messages, read_token_count
from gguf_worker.api.reading import MAX_USER, GenerationCall
from gguf_worker.errors import InvalidRequest
from gguf_worker.providers import ToolChoice

ASK = {"role": "user", "content": "Hi"}
TOOL = {"name": "weather", "description": "of a city", "input_schema": {"type": "object"}}
USE = {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Ye"}}
RESULT = {"type": "tool_result", "tool_use_id": "t1", "content": "12 °C"}


def read(**body: Any) -> GenerationCall:
    return read_messages({"max_tokens": 9, "messages": [ASK], **body}, id="r", deadline=5.0)


def turns(*messages: Any, **body: Any) -> list[dict[str, Any]]:
    return [dict(each) for each in read(messages=list(messages), **body).request.messages or ()]


def fault(**body: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        read(**body)
    assert caught.value.param is not None
    assert f"`{caught.value.param}`" in caught.value.message
    return caught.value


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


def text(said: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": said, **more}


def test_text_alone_is_content() -> None:
    call = read(messages=[{"role": "user", "content": "Merhaba 🦙"}])
    assert call.request.messages == ({"role": "user", "content": "Merhaba 🦙"},)
    assert (call.request.max_tokens, call.request.deadline) == (9, 5.0)
    assert (call.stream, call.model, call.warnings) == (False, None, ())


@pytest.mark.parametrize(
    "system", ["A\n\nB", [text("A", cache_control={"type": "ephemeral"}), text("B")]]
)
def test_the_system_prompt_comes_first(system: Any) -> None:
    assert turns(ASK, system=system) == [{"role": "system", "content": "A\n\nB"}, ASK]


def test_a_system_message_at_the_beginning_joins_the_system_prompt() -> None:
    said = {"role": "system", "content": "B"}
    assert turns(said, ASK, said, ASK, system="A") == [
        {"role": "system", "content": "A\n\nB"}, ASK, said, ASK
    ]  # fmt: skip


def test_turns_of_one_role_in_a_row_are_one() -> None:
    said = (user(text("a"), text("b")), assistant(text("c")), assistant(text("d")))
    assert turns(ASK, *said, ASK) == [
        {"role": "user", "content": "Hi\na\nb"},
        {"role": "assistant", "content": "c\nd"},
        ASK,
    ]  # fmt: skip


def test_thoughts_text_and_calls_are_one_turn_and_a_result_is_a_tools() -> None:
    thought = {"type": "thinking", "thinking": "Hm.", "signature": "s"}
    _, turn, result, last = turns(
        ASK, assistant(thought, text("A"), USE, {**USE, "id": "t2"}), user(RESULT, text("And?"))
    )
    assert (turn["content"], turn["reasoning_content"]) == ("A", "Hm.")
    assert [call["id"] for call in turn["tool_calls"]] == ["t1", "t2"]
    assert turn["tool_calls"][0]["function"] == {"name": "weather", "arguments": '{"city":"Ye"}'}
    assert result == {"role": "tool", "tool_call_id": "t1", "content": "12 °C"}
    assert last == {"role": "user", "content": "And?"}


def test_a_call_without_words_has_no_content() -> None:
    assert turns(ASK, assistant(USE), user(RESULT))[1]["content"] is None


@pytest.mark.parametrize(
    ("result", "content"),
    [
        ({"content": [text("a"), text("b")]}, "a\nb"),
        ({"content": "no such city", "is_error": True}, "Error: no such city"),
        ({"content": None}, ""),
        ({"content": "fine", "is_error": False}, "fine"),
    ],
)
def test_a_result_is_text(result: dict[str, Any], content: str) -> None:
    assert turns(ASK, assistant(USE), user(RESULT | result))[2]["content"] == content


def test_a_prefill_is_gone_on_from() -> None:
    for content in ("Once", [text("Once")]):
        call = read(messages=[ASK, {"role": "assistant", "content": content}])
        assert call.request.ending == "inside"
        assert (call.request.messages or ())[-1]["content"] == "Once"
    assert read(messages=[ASK, assistant(USE)]).request.ending == "turn"
    assert read().request.ending == "turn"


def test_a_prefill_beside_a_schema_is_not_gone_on_from_and_a_warning_says_so() -> None:
    format = {"type": "json_schema", "schema": {"type": "object"}}
    call = read(messages=[ASK, assistant(text("{"))], output_config={"format": format})
    assert call.request.ending == "turn"
    assert ["`output_config.format`" in each for each in call.warnings] == [True]


def test_settings_go_the_way_of_a_chats() -> None:
    call = read(
        temperature=0.5,
        top_p=0.9,
        top_k=5,
        seed=3,
        stop_sequences=["x"],
        stream=True,
        model="demo",
        metadata={"user_id": "u"},
        output_config={"effort": "low"},
    )
    request = call.request
    assert (
        request.stop,
        request.user,
        request.sampling.top_k,
        request.sampling.seed,
    ) == (("x",), "u", 5, 3)
    assert request.template_options == {"reasoning_effort": "low"}
    assert (call.stream, call.model, call.warnings) == (True, "demo", ())


def test_a_long_user_is_told_from_others_all_the_same() -> None:
    one, other = (read(metadata={"user_id": letter * 900}).request.user for letter in "ab")
    assert one != other
    assert len(one) <= MAX_USER


def test_the_callers_own_option_goes_before() -> None:
    kwargs = {"enable_thinking": False, "x": 1}
    request = read(thinking={"type": "enabled"}, chat_template_kwargs=kwargs).request
    assert request.template_options == kwargs
    assert request.thinking is False


def test_tools_have_their_schema_in_the_request() -> None:
    tools = [{**TOOL, "cache_control": {"type": "ephemeral"}, "strict": True, "type": "custom"}]
    function = {"name": "weather", "description": "of a city", "strict": True}
    assert read(tools=tools).request.tools == (
        {"type": "function", "function": {**function, "parameters": {"type": "object"}}},
    )


def test_a_tools_name_may_be_twice_as_long_as_openais() -> None:
    name = "n" * 128
    request = read(
        tools=[{**TOOL, "name": name}], tool_choice={"type": "tool", "name": name}
    ).request
    assert request.tools[0]["function"]["name"] == name
    assert request.tool_choice == ToolChoice("required", name)


@pytest.mark.parametrize(
    ("choice", "wanted", "parallel"),
    [
        ({"type": "auto"}, ToolChoice("auto"), True),
        ({"type": "any"}, ToolChoice("required"), True),
        ({"type": "none"}, ToolChoice("none"), True),
        ({"type": "tool", "name": "weather"}, ToolChoice("required", "weather"), True),
        ({"type": "any", "disable_parallel_tool_use": True}, ToolChoice("required"), False),
        (None, ToolChoice("auto"), True),
    ],
)
def test_a_choice_has_its_own_words(choice: Any, wanted: ToolChoice, parallel: bool) -> None:
    request = read(tools=[TOOL], tool_choice=choice).request
    assert (request.tool_choice, request.parallel_calls) == (wanted, parallel)


def test_a_schema_for_the_text_is_a_grammar() -> None:
    format = {"type": "json_schema", "schema": {"type": "object"}}
    call = read(output_config={"format": format})
    assert call.request.grammar is not None
    assert call.request.grammar.kind == "json_schema"
    assert call.grammar_field == "output_config.format"


@pytest.mark.parametrize(
    "harmless",
    [
        {"cache_control": {"type": "ephemeral"}},
        {"context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}},
        {"context_management": {"edits": []}},
        {"metadata": {"user_id": None}},
        {"output_config": {"effort": None, "format": None}},
        {"container": None, "mcp_servers": None},
        {"mcp_servers": []},
        {"context_management": None},
        {"thinking": {"type": "adaptive", "display": "omitted"}},
    ],
)
def test_what_changes_nothing_is_taken(harmless: dict[str, Any]) -> None:
    assert read(**harmless).request == read().request
    assert read(**harmless).warnings == ()


@pytest.mark.parametrize(
    ("hint", "word"),
    [
        (
            {"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}},
            "context_management",
        ),
        ({"context_management": {"edits": ["x"]}}, "context_management"),
        ({"tools": [{**TOOL, "input_examples": [{"city": "Ye"}]}]}, "input_examples"),
        ({"betas": ["x"]}, "betas"),
        ({"service_tier": "auto"}, "service_tier"),
        ({"anything_new": {"a": 1}}, "anything_new"),
    ],
)
def test_a_hint_without_effect_is_taken_with_a_warning(hint: dict[str, Any], word: str) -> None:
    call = read(**hint)
    assert call.request == replace(read().request, tools=call.request.tools)
    (warning,) = call.warnings
    assert word in warning


@pytest.mark.parametrize("odd", [5, "x", [], {"edits": 5}, {"edits": None}, {}])
def test_an_odd_hint_is_none(odd: Any) -> None:
    assert read(context_management=odd).request == read().request


@pytest.mark.parametrize("zero", [0, 0.0])
def test_a_limit_of_no_tokens_has_the_prompt_computed(zero: Any) -> None:
    assert read(max_tokens=zero).request == replace(read().request, max_tokens=0)


@pytest.mark.parametrize(
    ("refused", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": -2}, "max_tokens"),
        ({"max_tokens": False}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"system": 5}, "system"),
        ({"system": [{"type": "image"}]}, "system[0].type"),
        ({"stop_sequences": ["x" * 257]}, "stop_sequences[0]"),
        ({"stop_sequences": ["x"] * 65}, "stop_sequences"),
        ({"stop": ["x"]}, "stop"),
        ({"tools": [{"type": "bash_20250124"}, {"name": "f"}]}, "tools[1].input_schema"),
        ({"tools": ["f"]}, "tools[0]"),
        ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
        ({"tools": [TOOL, {**TOOL, "name": "a\nb"}]}, "tools[1].name"),
        ({"tools": [{**TOOL, "name": "n" * 257}]}, "tools[0].name"),
        ({"tools": [{**TOOL, "input_schema": {"x": "y" * 70_000}}]}, "tools[0].input_schema"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"tool_choice": {"type": "tool", "name": "x"}}, "tool_choice"),
        ({"thinking": {"type": "between_tools"}}, "thinking.type"),
        ({"thinking": {"type": "enabled", "display": "loud"}}, "thinking.display"),
        ({"output_config": {"effort": "enormous"}}, "output_config.effort"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
        ({"container": "c"}, "container"),
        ({"mcp_servers": [{}]}, "mcp_servers"),
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"temperature": "warm"}, "temperature"),
        ({"prompt": "Hi"}, "prompt"),
        ({"chat_template_kwargs": 5}, "chat_template_kwargs"),
    ],
)
def test_what_would_change_the_answer_is_refused_by_its_name(refused: Any, param: str) -> None:
    assert fault(**refused).param == param


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ("Hi", "messages[1]"),
        ({"role": "tool", "content": "x"}, "messages[1].role"),
        ({"role": "user"}, "messages[1].content"),
        ({"role": "user", "content": 5}, "messages[1].content"),
        (user("x"), "messages[1].content[0].type"),
        (user({"type": ["text"], "text": "a"}), "messages[1].content[0].type"),
        (user({"type": "text"}), "messages[1].content[0].text"),
        (user(USE), "messages[1].content[0].type"),
        (assistant(RESULT), "messages[1].content[0].type"),
        (assistant({"type": "redacted_thinking", "data": 5}), "messages[1].content[0].data"),
        (assistant({**USE, "input": ["{}"]}), "messages[1].content[0].input"),
        (assistant({"type": "tool_use", "id": "x", "input": {}}), "messages[1].content[0].name"),
        (user({**RESULT, "content": [{}]}), "messages[1].content[0].content[0].type"),
        (user({**RESULT, "tool_use_id": 5}), "messages[1].content[0].tool_use_id"),
    ],
)
def test_a_faulty_message_is_named(message: Any, param: str) -> None:
    assert fault(messages=[ASK, message, ASK]).param == param


def test_text_that_is_no_unicode_is_refused() -> None:
    assert fault(messages=[user(text("\ud83e"))]).param == "messages"


def test_counting_needs_no_limit_and_takes_any_last_turn() -> None:
    body = {"messages": [ASK, assistant(text("A"))], "tools": [TOOL], "system": "S"}
    request = read_token_count(body, id="r", deadline=None).request
    assert [each["role"] for each in request.messages or ()] == ["system", "user", "assistant"]
    assert len(request.tools) == 1


def test_a_later_failure_is_in_the_callers_words_too() -> None:
    error = InvalidRequest("Bad.", param="tools[1].function.parameters.properties")
    MESSAGES_WORDS.translate(error)
    assert error.param == "tools[1].input_schema.properties"
