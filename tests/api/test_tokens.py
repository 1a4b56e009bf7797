"""The readers of /tokenize: a chat is counted as it would be answered."""

from __future__ import annotations

from typing import Any

import pytest

from gguf_worker.api.openai import read_chat
from gguf_worker.api.reading import ALIASES, AnswerFormat, ChatFields, ToolFields
from gguf_worker.api.tokens import TokenizeCall, read_tokenize
from gguf_worker.errors import InvalidRequest

USER = {"role": "user", "content": "Hi"}
ASSISTANT = {"role": "assistant", "content": "He"}
FUNCTION = {"name": "f", "parameters": {"type": "object"}}
TOOLS = [{"type": "function", "function": FUNCTION}]
SCHEMA: dict[str, Any] = {"type": "object"}
BODIES: dict[str, dict[str, Any]] = {
    "messages": {"messages": [USER]},
    "chat_template_kwargs": {"chat_template_kwargs": {"a": 1}},
    "reasoning_effort": {"reasoning_effort": "none"},
    "enable_thinking": {"enable_thinking": False},
    "thinking": {"thinking": {"type": "disabled"}},
    "reasoning": {"reasoning": {"effort": "low", "exclude": True}},
    "thinking_budget": {"thinking_budget": 0},
    **{name: {name: 0} for name, field in ALIASES.items() if field == "thinking_budget"},
    "continue_final_message": {"continue_final_message": False, "messages": [USER, ASSISTANT]},
    "add_generation_prompt": {"add_generation_prompt": False},
    "tools": {"tools": TOOLS},
    "tool_choice": {"tools": TOOLS, "tool_choice": "none"},
    "parallel_tool_calls": {"tools": TOOLS, "parallel_tool_calls": False},
    "functions": {"functions": [FUNCTION]},
    "function_call": {"functions": [FUNCTION], "function_call": {"name": "f"}},
    "response_format": {
        "response_format": {"type": "json_object"},
        "messages": [USER, ASSISTANT],
    },
    "structured_outputs": {"structured_outputs": {"json": SCHEMA}},
    "guided_json": {"guided_json": SCHEMA},
    "guided_regex": {"guided_regex": "a"},
    "guided_choice": {"guided_choice": ["a"]},
    "guided_grammar": {"guided_grammar": 'root ::= "a"'},
    "json_schema": {"json_schema": SCHEMA},
    "grammar": {"grammar": 'root ::= "a"'},
}
"""Bodies by the field of a chat that they are about."""


def tokenize(body: dict[str, Any]) -> TokenizeCall:
    return read_tokenize(body, id="r", deadline=None)


def test_each_field_from_which_a_prompt_is_made_is_tried() -> None:
    fields = {*ChatFields.model_fields, *ToolFields.model_fields, *AnswerFormat.model_fields}
    assert fields <= BODIES.keys()


@pytest.mark.parametrize("field", BODIES)
def test_a_chat_is_counted_as_it_would_be_answered(field: str) -> None:
    body = {"messages": [USER], **BODIES[field]}
    chat = read_chat(body, id="r", deadline=None)
    read = tokenize(body)
    assert read.source == chat.request
    assert read.warnings == chat.warnings


def test_what_is_said_of_a_chat_is_said_beside_what_is_said_of_the_body() -> None:
    read = tokenize({"messages": [USER], "tools": [{"type": "web_search"}], "moon": 1})
    assert read.warnings == (
        "unknown field 'moon' was ignored",
        "tools of the type 'web_search' were left out: nothing here can run them",
    )


@pytest.mark.parametrize("field", ["temperature", "max_tokens", "stream"])
def test_what_changes_no_prompt_is_ignored_with_a_warning(field: str) -> None:
    read = tokenize({"messages": [USER], field: 1})
    assert read.warnings == (f"unknown field {field!r} was ignored",)


def test_a_wrong_field_of_a_chat_is_refused_by_its_name() -> None:
    with pytest.raises(InvalidRequest) as caught:
        tokenize({"messages": [USER], "reasoning_budget": "much"})
    assert caught.value.param == "reasoning_budget"
