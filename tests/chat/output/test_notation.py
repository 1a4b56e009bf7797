from __future__ import annotations

import json
from typing import Any

import pytest

from gguf_worker.chat import AnswerText, CallArguments, CallBegun, family_for
from gguf_worker.chat.output.notation import without_control
from gguf_worker.generation import Channel

TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}


def events(template: str, text: str) -> list[Any]:
    parser = family_for(template).parser([TOOL])
    return [*parser.feed(text), *parser.flush()]


def arguments(template: str, text: str) -> str:
    return "".join(
        event.text for event in events(template, text) if isinstance(event, CallArguments)
    )


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (
            "<tool_call>",
            '<tool_call>{"name": "f", "arguments": "{\\"a\\": \\"\\ud800\\"}"}</tool_call>',
        ),
        ("<tool_call><function=", '<function=f><parameter=a>["\\ud800"]</parameter></function>'),
        ("<|tool_call_start|>", '<|tool_call_start|>[f(a="\\ud800")]<|tool_call_end|>'),
    ],
)
def test_half_a_character_in_arguments_stays_escaped(template: str, text: str) -> None:
    written = arguments(template, text)
    written.encode()
    json.loads(written)


def test_gemmas_fence_of_python_is_a_call_of_a_declared_tool() -> None:
    assert arguments("<start_of_turn>", '```tool_code\nf(a="x", b=True)\n```') == (
        '{"a": "x", "b": true}'
    )


@pytest.mark.parametrize("code", ["print(1)", "f(1)", "g(a=1)", "x = 2", "f(a=1", ""])
def test_other_python_in_gemmas_fence_is_content(code: str) -> None:
    text = f"Well:\n```tool_code\n{code}\n```\nSo."
    assert events("<start_of_turn>", text) == [AnswerText(Channel.CONTENT, text)]


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("<|tool_call_start|>", "<|tool_call_start|>[f(a=1e999)]<|tool_call_end|>"),
        ("<|tool_call>", "<|tool_call>call:f{a:NaN}<tool_call|>"),
    ],
)
def test_a_number_that_json_cannot_write_makes_no_call(template: str, text: str) -> None:
    assert events(template, text) == [AnswerText(Channel.CONTENT, without_control(text))]


def test_a_number_between_tags_that_json_cannot_write_is_a_text() -> None:
    text = "<function=f><parameter=a>[1e999]</parameter></function>"
    assert arguments("<tool_call><function=", text) == '{"a": "[1e999]"}'


@pytest.mark.parametrize(
    "text",
    [
        "[f(1)]",
        "[f(a=b)]",
        "[f(**{})]",
        "[]",
        "f",
        "[f(a=open('x'))]",
        "[(lambda: f)(a=1)]",
        "[f(a={1: {2}})]",
        "[f(a='\\d')",
        "\0",
        f"[f(a={'1+' * 5000}1)]",
        f"[f(a='{'x' * 20_000}')]",
    ],
)
def test_python_that_is_not_a_call_with_literals_is_content(text: str) -> None:
    answer = f"<|tool_call_start|>{text}<|tool_call_end|>"
    said = [AnswerText(Channel.CONTENT, text)] if text.strip() else []
    assert events("<|tool_call_start|>", answer) == said


def test_python_with_odd_escapes_is_read_without_a_warning() -> None:
    text = "<|tool_call_start|>[f(a='\\d')]<|tool_call_end|>"
    assert arguments("<|tool_call_start|>", text) == '{"a": "\\\\d"}'


@pytest.mark.parametrize("name", ["", "a b", "a\\nb", "x" * 129, "f(", "\\ud800"])
def test_a_text_that_can_be_no_tools_name_makes_no_call(name: str) -> None:
    text = f'<tool_call>{{"name": "{name}", "arguments": {{}}}}</tool_call>'
    assert events("<tool_call>", text) == [AnswerText(Channel.CONTENT, text)]


@pytest.mark.parametrize("id", ['"a b"', '"\\ud800"', '""', "7", "null", f'"{"x" * 129}"'])
def test_an_id_that_cannot_be_one_is_none(id: str) -> None:
    text = f'<tool_call>{{"id": {id}, "name": "f", "arguments": {{}}}}</tool_call>'
    assert events("<tool_call>", text)[0] == CallBegun("f", None)


def test_a_tool_that_nobody_declared_is_called_all_the_same_where_a_mark_says_so() -> None:
    assert events("<tool_call>", '<tool_call>{"name": "g"}</tool_call>')[0] == CallBegun("g")
