"""The outlines of families: the engine tells content from the rest as the parser does."""

from __future__ import annotations

import json
import re

import pytest

from gguf_worker.chat import Family, family_for
from gguf_worker.chat.output.notation import no_calls
from gguf_worker.engine.loop.text_stream import TextStream
from gguf_worker.generation import Outline
from tests.chat.output.test_family_table import (
    APRIEL,
    COMMAND,
    FUNCTIONARY,
    GEMMA3,
    GEMMA4,
    GLM,
    GPT_OSS,
    GRANITE33,
    KIMI,
    LFM2,
    LLAMA31,
    MINIMAX,
    MINISTRAL3,
    NEMO,
    NEMOTRON,
    QWEN3,
    QWEN3_CODER,
    R1,
    SEED,
    SMALL32,
    V31,
    V32,
)
from tests.chat.output.test_parser import ANSWERS, TOOLS, Call, read

TEMPLATES = {
    "qwen": QWEN3,
    "coder": QWEN3_CODER,
    "glm": GLM,
    "llama": LLAMA31,
    "functionary": FUNCTIONARY,
    "nemo": NEMO,
    "small": SMALL32,
    "ministral": MINISTRAL3,
    "r1": R1,
    "deepseek 3.1": V31,
    "deepseek 3.2": V32,
    "gpt-oss": GPT_OSS,
    "kimi": KIMI,
    "granite": GRANITE33,
    "command": COMMAND,
    "gemma 4": GEMMA4,
    "seed": SEED,
    "minimax": MINIMAX,
    "lfm2": LFM2,
    "nemotron": NEMOTRON,
    "apriel": APRIEL,
    "gemma 3": GEMMA3,
    "none": "",
}

NAMESAKES = [
    {"type": "function", "function": {"name": name}}
    for name in ("a", "ab", "abc", "x" * 15, "x" * 16, "x" * 17, "x" * 64, "x" * 63 + "y")
]
"""Tools whose names begin with each other."""

each_family = pytest.mark.parametrize(
    "family", [family_for(template) for template in TEMPLATES.values()], ids=list(TEMPLATES)
)
MALFORMED = (
    "broken behind",
    "breaks off",
    "inside of a text",
    "without the outer tag",
    "llama, JSON that is no call",
    "llama, python",
    "not a call",
    "spoken of",
    "text between marks",
)
"""Answers with malformed calls, or with marks in a text: the outline knows only marks."""
WHOLE_MARKS = [
    answer
    for answer in ANSWERS
    if not any(mark in answer[4][0] for mark in ("<tool_call>", "<|tool_call>", "<think>"))
    and not any(name in answer[0] for name in MALFORMED)
]
each_answer = pytest.mark.parametrize(
    ("template", "thinking", "text", "expected"),
    [answer[1:] for answer in WHOLE_MARKS],
    ids=[answer[0] for answer in WHOLE_MARKS],
)


def streamed(
    family: Family, text: str, *, stop: tuple[str, ...] = (), thinking: bool = False
) -> tuple[str, str, str | None]:
    """Return the text that comes out, its thoughts, and the stop string that ended it."""
    stream = TextStream(stop, family.outline(TOOLS, thinking=thinking))
    out = thoughts = ""
    for letter in text:
        before = stream.thinking
        part = stream.feed(letter.encode())
        out += part
        if before and stream.thinking:
            thoughts += part
    before = stream.thinking
    rest = stream.flush()
    return out + rest, thoughts + (rest if before else ""), stream.stopped_by


def packed(text: str) -> str:
    return "".join(text.split())


@each_answer
def test_the_engine_sees_the_thoughts_that_the_parser_reads(
    template: str, thinking: bool, text: str, expected: tuple[str, str, list[Call]]
) -> None:
    out, thoughts, _ = streamed(family_for(template), text, thinking=thinking)
    assert out == text
    assert packed(thoughts) == packed(expected[1])


@each_answer
def test_a_stop_string_ends_an_answer_where_its_content_has_it_and_nowhere_else(
    template: str, thinking: bool, text: str, expected: tuple[str, str, list[Call]]
) -> None:
    family, content = family_for(template), expected[0]
    for word in sorted(set(re.findall(r"\w{2,}|[{}<>|\[\]\"\n]+", text))):
        out, _, stopped_by = streamed(family, text, stop=(word,), thinking=thinking)
        if word in content:
            shown = read(family, out, thinking=thinking)[0]
            assert stopped_by == word
            assert content.startswith(shown)
            assert word not in shown
        elif word.strip():
            assert stopped_by is None, word


@each_family
def test_a_thought_and_calls_are_asleep_and_the_text_between_them_is_not(family: Family) -> None:
    arguments = json.dumps({"city": "word"})
    if family.name == "harmony":
        thought = "<|channel|>analysis<|message|>a word<|end|><|start|>assistant"
        text = "<|channel|>final<|message|>a word<|end|>"
        call = f"<|channel|>commentary to=functions.get_weather<|message|>{arguments}<|call|>"
    else:
        thought = f"{family.thought.open}a word{family.thought.close}\n\n"
        text = "a word"
        marks = [mark for mark, read in family.notations.items() if read is not no_calls]
        call = f"{(marks or ['<tool_call>'])[0]}{arguments}"
    assert streamed(family, thought + call, stop=("word",))[::2] == (thought + call, None)
    whole = thought + text + call
    out, thoughts, stopped_by = streamed(family, whole, stop=("word",))
    assert (out, packed(thoughts), stopped_by) == (
        whole[: len(thought) + text.index("word")], "aword", "word"
    )  # fmt: skip


@each_family
def test_a_closing_ends_a_thought_and_an_empty_thought_leaves_none_open(family: Family) -> None:
    outline = family.outline(TOOLS, thinking=True)
    assert outline.closings
    for closing in outline.closings:
        stream = TextStream((), outline)
        stream.feed(f"so{closing}".encode())
        assert not stream.thinking
        header = "<|channel|>final<|message|>" if closing.endswith("assistant") else ""
        assert read(family, f"so{closing}{header}Yes.", thinking=True)[:2] == ("Yes.", "so")
    stream = TextStream((), family.outline(TOOLS))
    stream.feed((family.empty_thought or family.thought.empty).encode())
    assert not stream.thinking


@each_family
def test_no_mark_of_a_phase_begins_with_another(family: Family) -> None:
    for tools in ((), TOOLS, NAMESAKES):
        for formatted in (False, True):
            outline = family.outline(tools, formatted=formatted)
            assert is_sound(outline)
            assert TextStream(("x",), outline).feed(b"axb") == "a"


def is_sound(outline: Outline) -> bool:
    for phase in outline.phases:
        texts = [mark.text for mark in phase.marks]
        assert all(texts)
        assert not any(
            other.startswith(text)
            for number, text in enumerate(texts)
            for at, other in enumerate(texts)
            if at != number
        )
        assert all(mark.next < len(outline.phases) for mark in phase.marks)
    return True


def test_without_tools_marks_of_calls_are_content() -> None:
    family = family_for(QWEN3)
    stream = TextStream(("word",), family.outline(()))
    assert stream.feed(b"<tool_call>a word") == "<tool_call>a "


@pytest.mark.parametrize("text", ["[1] See the paper.\nUser: more", "[a] b\nUser: more"])
def test_a_list_that_calls_no_tool_is_content_where_stop_strings_count(text: str) -> None:
    for tools in ((), TOOLS, NAMESAKES):
        stream = TextStream(("\nUser:",), family_for(LLAMA31).outline(tools))
        assert stream.feed(text.encode()) == text.removesuffix("\nUser: more")
        assert stream.stopped_by == "\nUser:"


@pytest.mark.parametrize("tool", NAMESAKES)
def test_a_list_that_calls_a_tool_is_none_of_the_content(
    tool: dict[str, dict[str, str]],
) -> None:
    text = f"[{tool['function']['name']}(a='User:')]"
    stream = TextStream(("User:",), family_for(LLAMA31).outline(NAMESAKES))
    assert stream.feed(text.encode()) + stream.flush() == text
    assert stream.stopped_by is None


def test_in_a_formatted_answer_marks_are_content_once_content_has_begun() -> None:
    family = family_for(MINISTRAL3)
    stream = TextStream(("word",), family.outline(TOOLS, formatted=True))
    assert stream.feed(b'{"a": "[THINK]word') == '{"a": "[THINK]'


@pytest.mark.parametrize(
    ("template", "prompt", "begun", "end"),
    [
        (QWEN3, "assistant\n", False, "<think>\n\n</think>\n\n"),
        (QWEN3, "assistant\n<think>\n", True, "\n</think>\n\n"),
        (QWEN3, "assistant\n<think>", True, "\n\n</think>\n\n"),
        (QWEN3, "assistant\n<think>\n\n</think>\n\n", False, ""),
        (MINISTRAL3, "[/INST]", False, "[THINK][/THINK]"),
        (COMMAND, "<|CHATBOT_TOKEN|>", False, "<|START_THINKING|><|END_THINKING|>"),
        (COMMAND, "<|START_THINKING|>", True, "<|END_THINKING|>"),
        (GEMMA4, "<|turn>model\n", False, "<|channel>thought\n<channel|>"),
        (
            GPT_OSS, "<|start|>assistant", False,
            "<|channel|>analysis<|message|><|end|><|start|>assistant",
        ),
        (GPT_OSS, "<|channel|>analysis<|message|>", True, "<|end|><|start|>assistant"),
        (LLAMA31, "assistant\n\n", False, ""),
        ("", "assistant\n", False, ""),
    ],
)  # fmt: skip
def test_a_prompt_is_given_the_end_of_a_thought_where_the_model_would_think(
    template: str, prompt: str, begun: bool, end: str
) -> None:
    assert family_for(template).without_thought(prompt, begun=begun) == end


def test_an_answer_after_an_empty_thought_is_read_as_before() -> None:
    for template in TEMPLATES.values():
        family = family_for(template)
        if family.name != "harmony":
            assert read(family, "Yes.", tools=TOOLS) == ("Yes.", "", [])
