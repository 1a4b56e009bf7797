from __future__ import annotations

import json
import time
from typing import Any

from gguf_worker.chat import (
    CallArguments,
    CallBegun,
    CallEnded,
    family_for,
    plain_messages,
)
from gguf_worker.chat.tool_instructions import instructions

TOOL = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}},
}
CALL = {
    "id": "1",
    "type": "function",
    "function": {"name": "get_weather", "arguments": '{"city": "Şile"}'},
}
SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "Weather?"}
WRITTEN = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Şile"}}\n</tool_call>'


def test_the_instructions_hold_every_tool_and_show_the_format() -> None:
    text = instructions([TOOL])
    assert json.dumps(TOOL) in text
    assert "<tool_call>\n{" in text


def test_tools_are_described_at_the_end_of_the_system_message() -> None:
    assert plain_messages([SYSTEM, USER], [TOOL]) == [
        {"role": "system", "content": f"Be brief.\n\n{instructions([TOOL])}"},
        USER,
    ]
    assert plain_messages([USER], [TOOL]) == [
        {"role": "system", "content": instructions([TOOL])},
        USER,
    ]


def test_without_tools_only_the_history_is_rewritten() -> None:
    assert plain_messages([SYSTEM, USER], []) == [SYSTEM, USER]


def test_calls_and_results_become_turns_of_assistant_and_user() -> None:
    messages: list[dict[str, Any]] = [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [CALL, CALL]},
        {"role": "tool", "tool_call_id": "1", "content": "sunny"},
        {"role": "tool", "tool_call_id": "2", "content": "rainy"},
        {"role": "assistant", "content": "Mixed."},
        USER,
        {"role": "assistant", "content": "I look.", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "3", "content": "sunny"},
        {"role": "user", "content": "Well?"},
    ]
    sunny, rainy = (f"<tool_response>\n{word}\n</tool_response>" for word in ("sunny", "rainy"))
    assert plain_messages(messages, []) == [
        USER,
        {"role": "assistant", "content": f"{WRITTEN}\n{WRITTEN}"},
        {"role": "user", "content": f"{sunny}\n{rainy}"},
        {"role": "assistant", "content": "Mixed."},
        USER,
        {"role": "assistant", "content": f"I look.\n{WRITTEN}"},
        {"role": "user", "content": f"{sunny}\n\nWell?"},
    ]
    assert messages[3]["content"] == "rainy"


def test_arguments_may_be_an_object_or_nothing() -> None:
    for arguments, text in (
        ({"a": 1}, '{"a": 1}'),
        ('{"a":1}', '{"a":1}'),
        ("", "{}"),
        (None, "{}"),
        ("null", "{}"),
        ('"{}"', "{}"),
        ('{"cut', '{"arguments": "{\\"cut"}'),
    ):
        call = {"function": {"name": "f", "arguments": arguments}}
        [message] = plain_messages([{"role": "assistant", "tool_calls": [call]}], [])
        assert (
            message["content"] == f'<tool_call>\n{{"name": "f", "arguments": {text}}}\n</tool_call>'
        )


def test_no_content_is_an_empty_text() -> None:
    assert plain_messages([{"role": "assistant", "content": None}], []) == [
        {"role": "assistant", "content": ""}
    ]


def test_the_history_is_written_in_the_notation_that_the_family_reads() -> None:
    [message] = plain_messages([{"role": "assistant", "tool_calls": [CALL]}], [])
    parser = family_for(None).parser([TOOL])
    assert [*parser.feed(message["content"]), *parser.flush()] == [
        CallBegun("get_weather"),
        CallArguments('{"city": "Şile"}'),
        CallEnded(),
    ]


def test_thousands_of_results_in_a_row_take_no_longer_than_they_are_long() -> None:
    results = [{"role": "tool", "content": "x" * 5000}] * 4096
    began = time.process_time()
    (turn,) = plain_messages(results, [])
    assert time.process_time() - began < 3
    assert turn["content"].count("<tool_response>") == 4096
