"""The messages of a chat, and the options of its template."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.readers import chat, fault


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
