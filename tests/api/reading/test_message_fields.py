"""The messages of a chat, and the options of its template."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.api.readers import chat, completion, fault, native

USER = {"role": "user", "content": "Hi"}
TOOL = {"type": "function", "function": {"name": "f"}}


def assistant(**more: Any) -> dict[str, Any]:
    return {"role": "assistant", **more}


def content_of(content: Any, role: str = "user") -> Any:
    request = chat(messages=[{"role": role, "content": content}]).request
    assert request.messages is not None
    return request.messages[0]["content"]


@pytest.mark.parametrize(
    ("message", "path"),
    [
        ({"role": "user"}, "messages[1].content"),
        ({"role": "user", "content": None}, "messages[1].content"),
        ({"role": "system", "content": None}, "messages[1].content"),
        ({"role": "user", "content": 5}, "messages[1].content"),
        ({"role": "user", "content": {"type": "text"}}, "messages[1].content"),
        ({"role": "user", "content": []}, "messages[1].content"),
        ({"role": "user", "content": ["text"]}, "messages[1].content"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[1].content"),
        (
            {"role": "user", "content": [{"type": "text", "text": "a"}] * 1025},
            "messages[1].content",
        ),
        ({"role": "wizard", "content": "x"}, "messages[1].role"),
        ({"role": ["user"], "content": "x"}, "messages[1].role"),
        ({"content": "x"}, "messages[1].role"),
        ("hello", "messages[1]"),
        (None, "messages[1]"),
    ],
)
def test_a_bad_message_is_named_by_its_place(message: Any, path: str) -> None:
    error = fault(chat, messages=[{"role": "user", "content": "Hi"}, message])
    assert error.param == path
    assert f"`{path}`" in error.message


@pytest.mark.parametrize(
    "messages",
    [[], "hello", {"role": "user", "content": "x"}, [{"role": "user", "content": "x"}] * 4097],
)
def test_messages_are_a_list_of_sane_length(messages: Any) -> None:
    assert fault(chat, messages=messages).param == "messages"


SILENT = [{}, {"content": None}, {"content": ""}, {"content": []}]
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize("content", [*SILENT, {"content": [{"type": "text", "text": None}]}])
@pytest.mark.parametrize("calls", [{}, {"tool_calls": None}, {"tool_calls": []}])
def test_an_assistant_or_a_tool_may_have_said_nothing_in_any_way(
    content: dict[str, Any], calls: dict[str, Any]
) -> None:
    turns = [{"role": role, **content} for role in ("assistant", "tool")]
    request = chat(messages=[{**turns[0], **calls}, turns[1], USER]).request
    assert [each["content"] for each in request.messages or ()] == ["", "", "Hi"]
    assert not any("tool_calls" in each for each in request.messages or ())


@pytest.mark.parametrize("content", SILENT)
def test_a_call_may_have_no_text_beside_it(content: dict[str, Any]) -> None:
    turn = {"role": "assistant", "tool_calls": [CALL], **content}
    (read, _) = chat(messages=[turn, USER]).request.messages or ()
    assert (read["content"] or "", read["tool_calls"]) == ("", [CALL])


@pytest.mark.parametrize("name", ["id", "type", "arguments"])
@pytest.mark.parametrize("lost", ["null", "missing", "empty"])
def test_a_replayed_call_may_have_lost_what_is_no_name(name: str, lost: str) -> None:
    call = json.loads(json.dumps(CALL))
    holder = call["function"] if name == "arguments" else call
    holder[name] = {"null": None, "empty": "", "missing": None}[lost]
    if lost == "missing":
        del holder[name]
    (read, _) = chat(messages=[assistant(tool_calls=[call]), USER]).request.messages or ()
    (found,) = read["tool_calls"]
    assert found["type"] == "function"
    assert found["function"]["arguments"] == ("" if name == "arguments" else "{}")
    assert found.get("id") == (None if name == "id" else "c1")


@pytest.mark.parametrize(
    ("id", "read"), [(5, "5"), (None, None), ("", None), (True, None), ({}, None), ([1], None)]
)
def test_an_id_is_a_text_or_none(id: Any, read: str | None) -> None:
    turns = [assistant(tool_calls=[{**CALL, "id": id}]), {"role": "tool", "content": "x"}]
    called, result, _ = (
        chat(messages=[turns[0], {**turns[1], "tool_call_id": id}, USER]).request.messages or ()
    )
    assert (called["tool_calls"][0].get("id"), result.get("tool_call_id")) == (read, read)


def test_null_is_absent_in_every_member_of_a_message() -> None:
    extra = dict.fromkeys(("name", "refusal", "audio", "function_call", "reasoning", "tool_calls"))
    said = {"role": "assistant", "content": "x"}
    assert chat(messages=[{**said, **extra}, USER]).request == chat(messages=[said, USER]).request


@pytest.mark.parametrize("kind", ["text", "input_text", "output_text"])
def test_text_parts_have_the_names_of_every_dialect(kind: str) -> None:
    assert content_of([{"type": kind, "text": "a"}]) == "a"
    assert content_of([{"type": "refusal", "refusal": "No."}], "assistant") == "No."


@pytest.mark.parametrize("role", ["user", "system"])
def test_a_question_has_to_ask_something(role: str) -> None:
    for content in (None, [], [{"type": "text", "text": None}]):
        error = fault(chat, messages=[{"role": role, "content": content}])
        assert error.param == "messages[0].content"


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        ({"reasoning": "Hm"}, "Hm"),
        ({"reasoning_content": "Hm"}, "Hm"),
        ({"reasoning": "Hm", "reasoning_content": "Hm"}, "Hm"),
        ({"reasoning": "Hm", "reasoning_content": ""}, "Hm"),
        ({"reasoning": "Hm", "reasoning_content": None}, "Hm"),
        ({"reasoning": ""}, ""),
        ({"reasoning": None}, None),
        ({}, None),
    ],
)
def test_a_thought_is_read_by_either_name(sent: dict[str, Any], read: str | None) -> None:
    request = chat(messages=[assistant(content="x", **sent), USER]).request
    assert request.messages is not None
    assert request.messages[0].get("reasoning_content") == read
    assert "reasoning" not in request.messages[0]


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
@pytest.mark.parametrize("value", [5, [], {"text": "Hm"}, True])
def test_a_thought_that_is_no_text_is_left_out_with_a_warning(name: str, value: Any) -> None:
    call = chat(messages=[assistant(content="x", **{name: value}), USER])
    assert call.request == chat(messages=[assistant(content="x"), USER]).request
    assert call.warnings == (f"`{name}` of 1 messages was ignored: it is no text",)


BEGUN = [USER, assistant(content="Once upon")]
CALLED = [USER, assistant(tool_calls=[CALL])]
SCHEMA = {"response_format": {"type": "json_object"}}


@pytest.mark.parametrize(
    ("messages", "more", "ending"),
    [
        ([USER], {}, "turn"),
        ([USER], {"continue_final_message": False}, "turn"),
        ([USER], {"add_generation_prompt": True}, "turn"),
        ([USER], {"add_generation_prompt": False}, "bare"),
        (BEGUN, {}, "inside"),
        (BEGUN, {"continue_final_message": None, "add_generation_prompt": None}, "inside"),
        (BEGUN, {"continue_final_message": True}, "inside"),
        (BEGUN, {"continue_final_message": True, "add_generation_prompt": False}, "inside"),
        (BEGUN, {"add_generation_prompt": False}, "inside"),
        (BEGUN, {"continue_final_message": False}, "turn"),
        (BEGUN, {"add_generation_prompt": True}, "turn"),
        (BEGUN, {"continue_final_message": False, "add_generation_prompt": False}, "bare"),
        ([*BEGUN[:1], assistant(content="a", tool_calls=None)], {}, "inside"),
        (CALLED, {}, "turn"),
        ([*CALLED, {"role": "tool", "content": "x"}], {}, "turn"),
    ],
)
def test_a_last_message_of_the_assistant_is_gone_on_from_unless_it_calls(
    messages: list[Any], more: dict[str, Any], ending: str
) -> None:
    call = chat(messages=messages, **more)
    assert (call.request.ending, call.warnings) == (ending, ())


@pytest.mark.parametrize(
    "more", [SCHEMA, {"tools": [TOOL], "tool_choice": "required"}, {"guided_regex": "a"}]
)
def test_an_answer_of_a_whole_form_is_a_new_turn_and_says_so(more: dict[str, Any]) -> None:
    call = chat(messages=BEGUN, **more)
    assert call.request.ending == "turn"
    (warning,) = call.warnings
    assert f"`{next(iter(more)) if 'tools' not in more else 'tool_choice'}`" in warning


@pytest.mark.parametrize(
    ("messages", "more"),
    [
        ([USER], {}),
        (CALLED, {}),
        (BEGUN, {"add_generation_prompt": True}),
        (BEGUN, SCHEMA),
        (BEGUN, {"tools": [TOOL], "tool_choice": "required"}),
    ],
)
def test_to_go_on_where_that_cannot_be_is_refused_by_name(
    messages: list[Any], more: dict[str, Any]
) -> None:
    error = fault(chat, messages=messages, continue_final_message=True, **more)
    assert error.param == "continue_final_message"


@pytest.mark.parametrize("read", [native, completion])
def test_a_prompt_has_no_last_message(read: Any) -> None:
    assert fault(read, continue_final_message=True).param == "continue_final_message"
    assert read(continue_final_message=False, add_generation_prompt=True).warnings == ()


@pytest.mark.parametrize("name", ["continue_final_message", "add_generation_prompt"])
@pytest.mark.parametrize("wrong", ["yes", 1, [], {}])
def test_how_a_prompt_ends_is_true_or_false(name: str, wrong: Any) -> None:
    assert fault(chat, messages=BEGUN, **{name: wrong}).param == name


def test_an_image_is_refused_rather_than_overlooked() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    error = fault(
        chat, messages=[{"role": "user", "content": [{"type": "text", "text": "See"}, image]}]
    )
    assert error.param == "messages[0].content"
    assert "'image_url'" in error.message
    assert "not supported by this version" in error.message


def test_text_parts_are_joined_by_line() -> None:
    assert content_of([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]) == "a\nb"


def test_an_assistant_may_have_said_nothing() -> None:
    assert content_of(None, role="assistant") == ""


def test_an_assistant_that_called_a_tool_keeps_its_missing_content() -> None:
    calls = [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    turn = {"role": "assistant", "content": None, "tool_calls": calls, "refusal": None}
    request = chat(messages=[turn, {"role": "tool", "tool_call_id": "c1", "content": "5"}]).request
    assert request.messages == (
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c1", "content": "5"},
    )


def test_a_developer_message_is_a_system_message() -> None:
    request = chat(messages=[{"role": "developer", "content": "x"}]).request
    assert request.messages == ({"role": "system", "content": "x"},)


def test_template_options_are_passed_on() -> None:
    request = chat(chat_template_kwargs={"enable_thinking": False}, reasoning_effort="low").request
    assert request.template_options == {"enable_thinking": False, "reasoning_effort": "low"}


def test_whether_to_think_may_be_said_beside_the_messages() -> None:
    asked = chat(enable_thinking=False)
    assert (asked.request.template_options, asked.warnings) == ({"enable_thinking": False}, ())
    assert chat(enable_thinking=None).request.template_options == {}
    assert fault(chat, enable_thinking="no").param == "enable_thinking"


def test_template_options_are_bounded() -> None:
    error = fault(chat, chat_template_kwargs={"x": "y" * 70_000})
    assert error.param == "chat_template_kwargs"


@pytest.mark.parametrize(
    ("call", "path"),
    [
        (
            {"function": {"name": "f", "arguments": 5}},
            "messages[0].tool_calls[0].function.arguments",
        ),
        ({"function": {"arguments": "{}"}}, "messages[0].tool_calls[0].function.name"),
        ({"type": "custom", "function": {"name": "f"}}, "messages[0].tool_calls[0].type"),
        ({}, "messages[0].tool_calls[0].function"),
        ("f", "messages[0].tool_calls[0]"),
    ],
)
def test_a_call_in_the_history_has_a_name_and_arguments(call: Any, path: str) -> None:
    turn = {"role": "assistant", "content": None, "tool_calls": [call]}
    error = fault(chat, messages=[turn])
    assert error.param is not None
    assert error.param.startswith(path)


def test_the_parts_of_all_messages_together_are_bounded() -> None:
    parts = [{"type": "text", "text": ""}] * 1000
    messages = [{"role": "user", "content": parts}] * 17
    assert chat(messages=messages[:16]).request.messages
    error = fault(chat, messages=messages)
    assert error.param == "messages"
    assert "16384 content parts" in error.message
