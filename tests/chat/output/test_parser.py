"""Captured answers of each family: wherever they are cut, they are read alike."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pytest

from gguf_worker.chat import (
    AnswerEvent,
    AnswerParser,
    AnswerText,
    CallArguments,
    CallBegun,
    CallEnded,
    Family,
    family_for,
)
from gguf_worker.chat.output.answer_reader import MAX_TRIED
from gguf_worker.chat.output.event_writer import MAX_SPACE
from gguf_worker.generation import Channel


def tool(name: str, **properties: object) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


WEATHER = tool(
    "get_weather",
    city={"type": "string"},
    days={"type": "integer"},
    celsius={"type": "boolean"},
    tags={"type": "array", "items": {"type": "string"}},
)
WRITE = tool("write_file", path={"type": "string"}, content={"type": "string"})
TOOLS = (WEATHER, WRITE)

QWEN = "<think> <tool_call>"
CODER = "<think> <tool_call> <function="
LLAMA = '<|python_tag|> {"name": x, "parameters": y} ipython'
R1 = "<think> <｜tool▁calls▁begin｜> ```json"
LLAMA4 = LLAMA.replace("<|python_tag|>", "<|python_start|>")
GPT_OSS = "<|channel|>analysis<|message|>"
MISTRAL = "[TOOL_CALLS][ARGS] [THINK]"
GEMMA4 = "<|tool_call>call: <|channel>thought"

PARIS = ("get_weather", None, {"city": "Paris"})
ROME = ("get_weather", None, {"city": "Rome"})

Call = tuple[str, str | None, Any]


def events_of(parser: AnswerParser, texts: Iterable[str]) -> Iterator[AnswerEvent]:
    for text in texts:
        yield from parser.feed(text)
    yield from parser.flush()


def summed(events: Iterable[AnswerEvent]) -> tuple[str, str, list[Call]]:
    """Return what the events add up to: content, reasoning, calls. Their order is checked too."""
    texts = {Channel.CONTENT: "", Channel.REASONING: ""}
    calls: list[Call] = []
    arguments: str | None = None
    name: tuple[str, str | None] = ("", None)
    for event in events:
        if isinstance(event, AnswerText):
            assert event.text
            assert arguments is None
            texts[event.channel] += event.text
        elif isinstance(event, CallBegun):
            assert arguments is None
            name, arguments = (event.name, event.id), ""
        elif isinstance(event, CallArguments):
            assert event.text
            assert arguments is not None
            arguments += event.text
        else:
            assert isinstance(event, CallEnded)
            assert arguments is not None
            try:
                calls.append((*name, json.loads(arguments)))
            except ValueError:
                calls.append((*name, arguments))
            arguments = None
    assert arguments is None
    return texts[Channel.CONTENT], texts[Channel.REASONING], calls


def read(
    family: Family,
    *texts: str,
    tools: Sequence[dict[str, Any]] = TOOLS,
    thinking: bool = False,
) -> tuple[str, str, list[Call]]:
    return summed(events_of(family.parser(tools, thinking=thinking), texts))


ANSWERS: list[tuple[str, str, bool, str, tuple[str, str, list[Call]]]] = [
    # Plain text, and thoughts.
    ("plain", "", False, " Hello,\n\nworld! \n", (" Hello,\n\nworld! \n", "", [])),
    (
        "think",
        QWEN,
        False,
        "<think>\nHm, \n so.\n</think>\n\nYes.",
        ("Yes.", "Hm, \n so.", []),
    ),
    ("think opened by the prompt", QWEN, True, "Hm.\n</think>\n\nYes.\n", ("Yes.\n", "Hm.", [])),
    ("an empty thought", QWEN, False, "<think>\n\n</think>\n\nYes.", ("Yes.", "", [])),
    ("a thought without an end", QWEN, False, "<think>\nHm </thin", ("", "Hm </thin", [])),
    (
        "thoughts named in content",
        QWEN,
        False,
        "The tag <think> opens a thought, </think> closes it.",
        ("The tag <think> opens a thought, </think> closes it.", "", []),
    ),
    ("space before a thought", QWEN, False, "\n <think>a</think>b", ("b", "a", [])),
    (
        "what looks like a mark",
        QWEN,
        False,
        "a <tool_cal> b <thin",
        ("a <tool_cal> b <thin", "", []),
    ),
    (
        "Seed's thought",
        "<seed:think> <seed:tool_call>",
        False,
        "<seed:think>a</seed:think>\nb",
        ("b", "a", []),
    ),
    ("EXAONE's thought", "<thought>", True, "a</thought>\n\nb", ("b", "a", [])),
    (
        "Magistral's thoughts",
        MISTRAL,
        False,
        "[THINK]a[/THINK]b[THINK]c[/THINK]",
        ("b", "a\n\nc", []),
    ),
    # Hermes, Qwen.
    (
        "hermes",
        QWEN,
        False,
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>',
        ("", "", [PARIS]),
    ),
    (
        "hermes, thought and text and two calls",
        QWEN,
        False,
        "<think>\nTwo.\n</think>\n\nLet me see.\n"
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>',
        ("Let me see.", "Two.", [PARIS, ROME]),
    ),
    (
        "hermes, arguments first, then an id",
        QWEN,
        False,
        '<tool_call>{"arguments": {"city": "Paris"}, "id": "c1", "name": "get_weather"}'
        "</tool_call>",
        ("", "", [("get_weather", "c1", {"city": "Paris"})]),
    ),
    (
        "hermes, arguments in a text",
        QWEN,
        False,
        '<tool_call>{"name": "get_weather", "arguments": "{\\"city\\": \\"Paris\\"}"}</tool_call>',
        ("", "", [PARIS]),
    ),
    (
        "hermes, no arguments, and null",
        QWEN,
        False,
        '<tool_call>{"name": "f"}</tool_call>'
        '<tool_call>{"name": "g", "arguments": null}</tool_call>',
        ("", "", [("f", None, {}), ("g", None, {})]),
    ),
    (
        "hermes, marks and braces inside of a text",
        QWEN,
        False,
        '<tool_call>{"name": "write_file", "arguments": {"content": '
        '"</tool_call> <think> {\\"}\\\\"}}\n</tool_call>\nDone.',
        ("Done.", "", [("write_file", None, {"content": '</tool_call> <think> {"}\\'})]),
    ),
    (
        "hermes, two objects in one tag",
        QWEN,
        False,
        '<tool_call>{"name": "f", "arguments": {}}\n{"name": "g", "arguments": {}}</tool_call>',
        ("", "", [("f", None, {}), ("g", None, {})]),
    ),
    (
        "hermes, no end of the tag",
        QWEN,
        False,
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}',
        ("", "", [PARIS]),
    ),
    (
        "hermes, not a call",
        QWEN,
        False,
        "a\n<tool_call>\nnothing</tool_call> b",
        ("a\n<tool_call>\nnothing</tool_call> b", "", []),
    ),
    (
        "hermes, no name",
        QWEN,
        False,
        '<tool_call>{"arguments": {"a": 1}}</tool_call>',
        ('<tool_call>{"arguments": {"a": 1}}</tool_call>', "", []),
    ),
    (
        "hermes, ended within the name",
        QWEN,
        False,
        '<tool_call>\n{"name": "get_wea',
        ('<tool_call>\n{"name": "get_wea', "", []),
    ),
    (
        "hermes, ended within the arguments",
        QWEN,
        False,
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Pa',
        ("", "", [("get_weather", None, '{"city": "Pa')]),
    ),
    (
        "hermes, broken behind the arguments",
        QWEN,
        False,
        '<tool_call>{"name": "get_weather", "arguments": {"city": "Paris"} oh no',
        ("oh no", "", [PARIS]),
    ),
    # Qwen3-Coder, Seed-OSS, GLM.
    (
        "coder",
        CODER,
        False,
        "I look.\n\n<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n"
        "<parameter=days>\n3\n</parameter>\n<parameter=celsius>\nTrue\n</parameter>\n"
        '<parameter=tags>\n["a", "b"]\n</parameter>\n</function>\n</tool_call>',
        (
            "I look.",
            "",
            [
                (
                    "get_weather",
                    None,
                    {"city": "Paris", "days": 3, "celsius": True, "tags": ["a", "b"]},
                )
            ],
        ),
    ),
    (
        "coder, a text of several lines that looks like JSON",
        CODER,
        False,
        "<tool_call>\n<function=write_file>\n<parameter=path>\n1\n</parameter>\n"
        "<parameter=content>\n{\n  <b>\n}\n\n</parameter>\n</function>\n</tool_call>",
        ("", "", [("write_file", None, {"path": "1", "content": "{\n  <b>\n}\n"})]),
    ),
    (
        "coder, without the outer tag, and without parameters",
        CODER,
        False,
        "<function=get_weather>\n</function>\n</tool_call>",
        ("", "", [("get_weather", None, {})]),
    ),
    (
        "coder, ended within",
        CODER,
        False,
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nPar",
        ("", "", [("get_weather", None, '{"city": "Par')]),
    ),
    (
        "coder, the end forgotten",
        CODER,
        False,
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n</tool_call>",
        ("", "", [PARIS]),
    ),
    (
        "coder, a function spoken of",
        CODER,
        False,
        "Write <function=get_weather> first.",
        ("Write <function=get_weather> first.", "", []),
    ),
    (
        "coder, in Hermes's way",
        CODER,
        False,
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>',
        ("", "", [PARIS]),
    ),
    (
        "seed",
        "<seed:think> <seed:tool_call> <function=",
        False,
        "<seed:tool_call>\n<function=get_weather>\n<parameter=city>Paris</parameter>\n"
        "</function>\n</seed:tool_call>",
        ("", "", [PARIS]),
    ),
    (
        "glm",
        "<think> <tool_call> <arg_key>",
        False,
        "\n<think></think>\nI look.\n<tool_call>get_weather\n<arg_key>city</arg_key>\n"
        "<arg_value>Paris</arg_value>\n<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n</tool_call>"
        "\n<tool_call>get_weather</tool_call>",
        (
            "I look.",
            "",
            [("get_weather", None, {"city": "Paris", "days": 3}), ("get_weather", None, {})],
        ),
    ),
    (
        "minimax",
        "<think> <minimax:tool_call>",
        True,
        'Hm\n</think>\n\n<minimax:tool_call>\n<invoke name="get_weather">\n'
        '<parameter name="city">Paris</parameter>\n<parameter name="days">3</parameter>\n'
        '</invoke>\n<invoke name="get_weather">\n<parameter name="city">Rome</parameter>\n'
        "</invoke>\n"
        "</minimax:tool_call>",
        ("", "Hm", [("get_weather", None, {"city": "Paris", "days": 3}), ROME]),
    ),
    (
        "deepseek 3.2",
        "<think> ｜DSML｜ function_calls>",
        False,
        '<｜DSML｜function_calls>\n<｜DSML｜invoke name="get_weather">\n'
        '<｜DSML｜parameter name="city" string="true">12</｜DSML｜parameter>\n'
        '<｜DSML｜parameter name="days" string="false">3</｜DSML｜parameter>\n'
        "</｜DSML｜invoke>\n</｜DSML｜function_calls>",
        ("", "", [("get_weather", None, {"city": "12", "days": 3})]),
    ),
    # Llama.
    (
        "llama",
        LLAMA,
        False,
        '{"name": "get_weather", "parameters": {"city": "Paris"}}',
        ("", "", [PARIS]),
    ),
    (
        "llama, with a type, and two",
        LLAMA,
        False,
        '\n{"type": "function", "name": "get_weather", "parameters": {"city": "Paris"}}; '
        '{"name": "get_weather", "parameters": {"city": "Rome"}}',
        ("", "", [PARIS, ROME]),
    ),
    (
        "llama, JSON that is no call",
        LLAMA,
        False,
        '{"name": "Ada", "parameters": {}} is a person.',
        ('{"name": "Ada", "parameters": {}} is a person.', "", []),
    ),
    (
        "llama, JSON with more fields",
        LLAMA,
        False,
        '{"title": {"name": "get_weather"}}',
        ('{"title": {"name": "get_weather"}}', "", []),
    ),
    (
        "llama, a call behind other text is none",
        LLAMA,
        False,
        'Use {"name": "get_weather", "parameters": {}}',
        ('Use {"name": "get_weather", "parameters": {}}', "", []),
    ),
    (
        "llama, python tag with JSON",
        LLAMA,
        False,
        '<|python_tag|>{"name": "get_weather", "parameters": {"city": "Paris"}}',
        ("", "", [PARIS]),
    ),
    (
        "llama, python tag with a call",
        LLAMA,
        False,
        '<|python_tag|>get_weather.call(city="Paris", days=3)',
        ("", "", [("get_weather", None, {"city": "Paris", "days": 3})]),
    ),
    (
        "llama, python",
        LLAMA,
        False,
        "<|python_tag|>import os",
        ("import os", "", []),
    ),
    (
        "llama, a list in python",
        LLAMA,
        False,
        '[get_weather(city="Paris"), get_weather(city="Rome")]',
        ("", "", [PARIS, ROME]),
    ),
    (
        "llama, python tag with a list",
        LLAMA,
        False,
        '<|python_tag|>[get_weather(city="Paris")]',
        ("", "", [PARIS]),
    ),
    (
        "llama, a list that is no call",
        LLAMA,
        False,
        '["get_weather", 1]',
        ('["get_weather", 1]', "", []),
    ),
    (
        "llama, a list of calls of something else",
        LLAMA,
        False,
        "[sum(a=1)]",
        ("[sum(a=1)]", "", []),
    ),
    (
        "llama 4, a list in python",
        LLAMA4,
        False,
        '<|python_start|>[get_weather(city="Paris"), get_weather(city="Rome")]<|python_end|>',
        ("", "", [PARIS, ROME]),
    ),
    (
        "llama 4, JSON between marks",
        LLAMA4,
        False,
        '<|python_start|>{"name": "get_weather", "parameters": {"city": "Paris"}}<|python_end|>',
        ("", "", [PARIS]),
    ),
    (
        "llama 4, bare JSON",
        LLAMA4,
        False,
        '{"name": "get_weather", "parameters": {"city": "Paris"}}',
        ("", "", [PARIS]),
    ),
    (
        "llama 4, text between marks",
        LLAMA4,
        False,
        "<|python_start|>I look.<|python_end|>",
        ("I look.", "", []),
    ),
    (
        "llama, function tag",
        LLAMA,
        False,
        'I look: <function=get_weather>{"city": "Paris"}</function>',
        ("I look:", "", [PARIS]),
    ),
    # Mistral.
    (
        "mistral, a list",
        "[TOOL_CALLS][",
        False,
        '[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Paris"}, "id": "abcdefghi"}, '
        '{"id": "123456789", "name": "get_weather", "arguments": {"city": "Rome"}}]',
        ("", "", [PARIS, ("get_weather", "123456789", {"city": "Rome"})]),
    ),
    (
        "mistral, arguments",
        MISTRAL,
        False,
        '[THINK]a [TOOL_CALLS] b[/THINK]I look.[TOOL_CALLS]get_weather[ARGS]{"city": "Paris"}'
        '[TOOL_CALLS]get_weather[ARGS]{"city": "Rome"}',
        ("I look.", "a [TOOL_CALLS] b", [PARIS, ROME]),
    ),
    (
        "mistral, call id",
        "[TOOL_CALLS][CALL_ID][ARGS]",
        False,
        '[TOOL_CALLS]get_weather[CALL_ID]abcdefghi[ARGS]{"city": "Paris"}',
        ("", "", [("get_weather", "abcdefghi", {"city": "Paris"})]),
    ),
    (
        "mistral, the list breaks off",
        "[TOOL_CALLS][",
        False,
        '[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Paris"}}, {"nam',
        ('{"nam', "", [PARIS]),
    ),
    # DeepSeek, Kimi.
    (
        "deepseek r1",
        R1,
        True,
        "Hm.\n</think>\n\n<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n"
        '```json\n{"city": "Paris"}\n```<｜tool▁call▁end｜>\n'
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>"
        'get_weather\n```json\n{"city": "Rome"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
        ("", "Hm.", [PARIS, ROME]),
    ),
    (
        "deepseek 3.1",
        "<think> <｜tool▁calls▁begin｜>",
        False,
        "I look.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>"
        'get_weather<｜tool▁sep｜>{"city": "Paris"}'
        '<｜tool▁call▁end｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{"city": "Rome"}'
        "<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        ("I look.", "", [PARIS, ROME]),
    ),
    (
        "deepseek, without the outer mark",
        R1,
        False,
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n"
        '{"city": "Paris"}\n```<｜tool▁call▁end｜>',
        ("", "", [PARIS]),
    ),
    (
        "kimi",
        "<|tool_calls_section_begin|>",
        False,
        "I look.<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0"
        '<|tool_call_argument_begin|>{"city": "Paris"}<|tool_call_end|><|tool_call_begin|>'
        'functions.get_weather:1<|tool_call_argument_begin|>{"city": "Rome"}<|tool_call_end|>'
        "<|tool_calls_section_end|>",
        (
            "I look.",
            "",
            [
                ("get_weather", "functions.get_weather:0", {"city": "Paris"}),
                ("get_weather", "functions.get_weather:1", {"city": "Rome"}),
            ],
        ),
    ),
    # gpt-oss.
    (
        "harmony",
        GPT_OSS,
        False,
        "<|channel|>analysis<|message|>I'm\nthinking<|end|><|start|>assistant<|channel|>final"
        "<|message|>Hello, world!\nWhat's up?<|return|>",
        ("Hello, world!\nWhat's up?", "I'm\nthinking", []),
    ),
    (
        "harmony, a call",
        GPT_OSS,
        False,
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary "
        'to=functions.get_weather <|constrain|>json<|message|>{"city": "Paris"}<|call|>',
        ("", "Hm.", [PARIS]),
    ),
    (
        "harmony, a recipient in the role, and a preamble",
        GPT_OSS,
        False,
        "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant to=functions.get_weather"
        '<|channel|>commentary json<|message|>{"city": "Paris"}',
        ("I look.", "", [PARIS]),
    ),
    (
        "harmony, no arguments",
        GPT_OSS,
        False,
        " to=functions.get_weather<|channel|>commentary<|message|> ",
        ("", "", [("get_weather", None, {})]),
    ),
    (
        "harmony, a stray header",
        GPT_OSS,
        False,
        "<|channel|>commentary to=assistant<|channel|>analysis<|message|>Hm.<|end|>"
        "<|start|>assistant"
        "<|channel|>final <|constrain|>json<|message|>{}",
        ("{}", "Hm.", []),
    ),
    (
        "harmony, a tool that nobody declared",
        GPT_OSS,
        False,
        "<|channel|>commentary to=python <|constrain|>code<|message|>print(1)<|call|>",
        ("print(1)", "", []),
    ),
    (
        "harmony, inside of an analysis",
        GPT_OSS,
        True,
        "still<|end|><|start|>assistant<|channel|>final<|message|>Yes.",
        ("Yes.", "still", []),
    ),
    ("harmony, no header", GPT_OSS, False, "Just text.", ("Just text.", "", [])),
    (
        "harmony, messages without ends",
        GPT_OSS,
        False,
        "<|channel|>analysis<|message|>a<|channel|>final<|message|>b<|start|>assistant<|channel|>final"
        "<|message|>c",
        ("b\n\nc", "a", []),
    ),
    # Lists of JSON.
    (
        "granite",
        "<|tool_call|>",
        False,
        '<|tool_call|>[{"name": "get_weather", "arguments": {"city": "Paris"}}, '
        '{"name": "get_weather", "arguments": {"city": "Rome"}}]',
        ("", "", [PARIS, ROME]),
    ),
    (
        "phi",
        "<|tool_call|><|/tool_call|>",
        False,
        '<|tool_call|>{"name": "get_weather", "arguments": {"city": "Paris"}}<|/tool_call|>',
        ("", "", [PARIS]),
    ),
    (
        "command r",
        "<|START_ACTION|><|START_THINKING|>",
        False,
        "<|START_THINKING|>Hm.<|END_THINKING|><|START_ACTION|>[\n    "
        '{"tool_call_id": "0", "tool_name": "get_weather", '
        '"parameters": {"city": "Paris"}}\n]<|END_ACTION|>',
        ("", "Hm.", [PARIS]),
    ),
    (
        "command r, a response",
        "<|START_ACTION|><|START_THINKING|>",
        False,
        "<|START_THINKING|>Hm.<|END_THINKING|><|START_RESPONSE|>Yes.<|END_RESPONSE|>",
        ("Yes.", "Hm.", []),
    ),
    # Gemma, LFM2.
    (
        "gemma 3, as instructed",
        "<start_of_turn>",
        False,
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>',
        ("", "", [PARIS]),
    ),
    (
        "gemma 3, a fence of python",
        "<start_of_turn>",
        False,
        'I look.\n```tool_code\n[get_weather(city="Paris"), get_weather(city="Rome")]\n```',
        ("I look.", "", [PARIS, ROME]),
    ),
    (
        "gemma 4",
        GEMMA4,
        False,
        "<|channel>thought\nHm.\n<channel|>I look."
        '<|tool_call>call:get_weather{city:<|"|>Paris, {x}<|"|>,'
        'days:-3,tags:[<|"|>a<|"|>,<|"|>b<|"|>],more:{a:1.5e3,b:null,c:{}}}<tool_call|>'
        "<|tool_call>call:get_weather{}<tool_call|>",
        (
            "I look.",
            "Hm.",
            [
                (
                    "get_weather",
                    None,
                    {
                        "city": "Paris, {x}",
                        "days": -3,
                        "tags": ["a", "b"],
                        "more": {"a": 1500.0, "b": None, "c": {}},
                    },
                ),
                ("get_weather", None, {}),
            ],
        ),
    ),
    (
        "functiongemma",
        "<start_function_call>call:",
        False,
        "<start_function_call>call:get_weather{city:<escape>Paris<escape>}<end_function_call>",
        ("", "", [PARIS]),
    ),
    (
        "nemotron",
        "<TOOLCALL> <think>",
        False,
        '<think>a</think><TOOLCALL>[{"name": "get_weather", "arguments": {"city": "Paris"}}]'
        "</TOOLCALL>",
        ("", "a", [PARIS]),
    ),
    (
        "apriel",
        "<tool_calls> <thinking>",
        False,
        "<thinking>a</thinking>b<tool_calls>"
        '[{"name": "get_weather", "arguments": {"city": "Paris"}}, '
        '{"name": "get_weather", "arguments": {"city": "Rome"}}]</tool_calls>',
        ("b", "a", [PARIS, ROME]),
    ),
    (
        "minimax m1",
        "<tool_calls> <think>",
        False,
        '<think>a</think><tool_calls>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n'
        '{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_calls>',
        ("", "a", [PARIS, ROME]),
    ),
    (
        "gemma 4, not a call",
        GEMMA4,
        False,
        "<|tool_call>call get_weather<tool_call|> so",
        ("call get_weather so", "", []),
    ),
    (
        "lfm2, JSON",
        "<|tool_call_start|>",
        False,
        '<|tool_call_start|>[{"name": "get_weather", "arguments": {"city": "Paris"}}, '
        '{"name": "get_weather", "arguments": {"city": "Rome"}}]<|tool_call_end|>',
        ("", "", [PARIS, ROME]),
    ),
    (
        "lfm2, one JSON object",
        "<|tool_call_start|>",
        False,
        '<|tool_call_start|>{"name": "get_weather", "arguments": {"city": "Paris"}}'
        "<|tool_call_end|>",
        ("", "", [PARIS]),
    ),
    (
        "granite 3.3, a thought and a response",
        "<think> <response> <|tool_call|>",
        False,
        "<think>Hm.</think><response>Yes.</response>",
        ("Yes.", "Hm.", []),
    ),
    (
        "lfm2",
        "<|tool_call_start|>",
        False,
        'I look.<|tool_call_start|>[get_weather(city="Paris"), '
        'a.b(x=true, y=None, z={"k": [1, null]})]'
        "<|tool_call_end|>",
        ("I look.", "", [PARIS, ("a.b", None, {"x": True, "y": None, "z": {"k": [1, None]}})]),
    ),
]

IDS = [answer[0] for answer in ANSWERS]
CASES = [answer[1:] for answer in ANSWERS]


@pytest.mark.parametrize(("template", "thinking", "text", "expected"), CASES, ids=IDS)
def test_an_answer_is_read_alike_wherever_it_is_cut(
    template: str, thinking: bool, text: str, expected: tuple[str, str, list[Call]]
) -> None:
    family = family_for(template)
    assert read(family, text, thinking=thinking) == expected
    assert read(family, *text, thinking=thinking) == expected
    for at in range(1, len(text)):
        assert read(family, text[:at], text[at:], thinking=thinking) == expected


@pytest.mark.parametrize(("template", "thinking", "text", "expected"), CASES, ids=IDS)
def test_an_answer_that_breaks_off_anywhere_is_read_without_a_failure(
    template: str, thinking: bool, text: str, expected: tuple[str, str, list[Call]]
) -> None:
    family = family_for(template)
    for end in range(len(text)):
        assert read(family, *text[:end], thinking=thinking) == read(
            family, text[:end], thinking=thinking
        )


def test_without_tools_there_are_no_calls() -> None:
    text = '<tool_call>\n{"name": "get_weather", "arguments": {}}\n</tool_call>'
    assert read(family_for(QWEN), text, tools=()) == (text, "", [])
    bare = '{"name": "get_weather", "parameters": {}}'
    assert read(family_for(LLAMA), bare, tools=()) == (bare, "", [])


def test_text_comes_out_as_soon_as_it_cannot_be_a_mark() -> None:
    parser = family_for(QWEN).parser(TOOLS)
    assert parser.feed("Hello <tool") == [AnswerText(Channel.CONTENT, "Hello")]
    assert parser.feed("box>!") == [AnswerText(Channel.CONTENT, " <toolbox>!")]
    assert parser.flush() == []


def test_arguments_come_out_as_they_are_written() -> None:
    parser = family_for(QWEN).parser(TOOLS)
    assert parser.feed('<tool_call>{"name": "get_wea') == []
    assert parser.feed('ther", "arguments": {"ci') == [
        CallBegun("get_weather"),
        CallArguments('{"ci'),
    ]
    assert parser.feed('ty": "Par') == [CallArguments('ty": "Par')]
    assert parser.feed('is"}}') == [CallArguments('is"}'), CallEnded()]
    assert parser.feed("\n</tool_call>") == []
    assert parser.flush() == []


HOSTILE = {
    "openings": "<tool_call>" * 4000,
    "half marks": "<tool_cal" * 5000,
    "brackets": '<tool_call>{"name": "f", "arguments": ' + "[" * 20_000,
    "objects": '<tool_call>{"a": ' * 3000,
    "no end": "<tool_call><function=f><parameter=a>" + "x" * 300_000,
    "a long name": '<tool_call>{"name": "' + "x" * 300_000,
    "space": " \n" * 30_000,
    "quotes": '<tool_call>{"a": "' + '\\"' * 50_000,
    "values": "<tool_call>f" + "<arg_key>a</arg_key><arg_value>1</arg_value>" * 4000,
    "gemma": "<|tool_call>call:f{a:" + "{a:" * 5000 + "<tool_call|>",
    "quoted": "<|tool_call>call:f{" + 'a:<|"|>b<|"|>,' * 15_000 + "}<tool_call|>",
    "python": "<|tool_call_start|>[f(a=" + "(" * 20_000 + "<|tool_call_end|>",
    "python words": "<|tool_call_start|>[f(a=[" + "true," * 10_000 + "])]<|tool_call_end|>",
    "headers": "<|channel|>" * 5000,
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("template", [QWEN, CODER, GEMMA4, "<|tool_call_start|>", GPT_OSS, R1])
@pytest.mark.parametrize("size", [7, 10**9])
def test_an_answer_made_to_be_slow_is_read_in_linear_time(
    template: str, text: str, size: int
) -> None:
    parser = family_for(template).parser(TOOLS)
    began = time.process_time()
    list(events_of(parser, (text[at : at + size] for at in range(0, len(text), size))))
    assert time.process_time() - began < 3


def test_the_text_that_a_trial_holds_back_is_bounded_and_comes_out() -> None:
    text = "<tool_call><function=" + "x" * (2 * MAX_TRIED)
    for size in (1000, len(text)):
        parser = family_for(CODER).parser(TOOLS)
        cut = [text[at : at + size] for at in range(0, len(text), size)]
        assert summed(events_of(parser, cut)) == (text, "", [])


CALLING = [answer for answer in ANSWERS if answer[4][2]]


@pytest.mark.parametrize(
    ("template", "thinking", "text", "expected"),
    [answer[1:] for answer in CALLING],
    ids=[answer[0] for answer in CALLING],
)
def test_an_answer_that_was_cut_anywhere_has_calls_as_far_as_they_came_and_no_markup(
    template: str, thinking: bool, text: str, expected: tuple[str, str, list[Call]]
) -> None:
    family = family_for(template)
    content, _, calls = expected
    for end in range(len(text)):
        parser = family.parser(TOOLS, thinking=thinking)
        events = [*parser.feed(text[:end]), *parser.flush(cut=True)]
        cut_content, _, cut_calls = summed(events)
        assert content.startswith(cut_content.strip()), text[:end]
        for whole, found in zip(calls, cut_calls[:-1], strict=False):
            assert found == whole
        for name, id, arguments in cut_calls[-1:]:
            whole = calls[len(cut_calls) - 1]
            assert (name, id) == whole[:2]
            assert arguments == whole[2] or isinstance(arguments, str)


@pytest.mark.parametrize(
    ("template", "text", "content"),
    [
        ("<|START_ACTION|>", "<|START_RESPONSE|>Yes.<|END_RESPONSE|>", "Yes."),
        ("<|START_ACTION|>", "<|START_ACTION|>[]<|END_ACTION|>", "[]"),
        ("<think> <response> <|tool_call|>", "<think>a</think><response>Yes.</response>", "Yes."),
        (LLAMA4, "<|python_start|>print(1)<|python_end|>", "print(1)"),
        ("[TOOL_CALLS] [ARGS]", "[TOOL_CALLS]f[ARGS]{}", "f{}"),
    ],
)
@pytest.mark.parametrize("size", [1, 1000])
def test_marks_that_are_special_tokens_are_no_content_without_tools_too(
    template: str, text: str, content: str, size: int
) -> None:
    cut = [text[at : at + size] for at in range(0, len(text), size)]
    assert "".join(read(family_for(template), *cut, tools=())[0].split()) == content


def test_whitespace_is_held_back_within_a_bound() -> None:
    parser = family_for(QWEN).parser(TOOLS)
    assert parser.feed("a" + " " * (MAX_SPACE + 5)) == [AnswerText(Channel.CONTENT, "a     ")]
    assert parser.feed("<tool_call>") == []
    assert summed(parser.feed('{"name": "f"}') + parser.flush()) == ("", "", [("f", None, {})])


FRAGMENTS = (
    *("<tool_call>", "</tool_call>", "<function=", "</function>", "<parameter=", "</parameter>"),
    *("<think>", "</think>", "[THINK]", "[/THINK]", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"),
    *("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>", "<|python_tag|>", "```json", "```"),
    *("<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"),
    *("<|channel|>", "<|message|>", "<|end|>", "<|start|>", "<|call|>", " to=functions.", "final"),
    *("<|channel>thought", "<channel|>", "<|tool_call>", "<tool_call|>", '<|"|>', "call:"),
    *(
        '{"name": "get_weather", ',
        '"arguments": ',
        '{"city": "Paris"}',
        "}",
        "{",
        "[",
        "]",
        ",",
        ";",
    ),
    *("get_weather", "f", ">", "<", "\n", " ", "\\", '"', ":", "text", "é", "null", "1"),
)


@pytest.mark.parametrize("template", sorted({template for template, *_ in CASES}))
def test_no_mixture_of_marks_is_read_differently_when_it_is_cut(template: str) -> None:
    family = family_for(template)
    chance = random.Random(template)
    for _ in range(100):
        text = "".join(chance.choices(FRAGMENTS, k=chance.randint(1, 20)))
        thinking = chance.random() < 0.2
        whole = read(family, text, thinking=thinking)
        assert read(family, *text, thinking=thinking) == whole
        at = chance.randrange(len(text))
        assert read(family, text[:at], text[at:], thinking=thinking) == whole
