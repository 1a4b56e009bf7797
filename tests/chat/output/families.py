"""A template's marks for every family, and calls written in each family's own format."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from gguf_worker.chat import Family, family_for
from gguf_worker.chat.output.grammar import FormatPart, FormatSlot
from gguf_worker.chat.output.notation import is_control

TEMPLATES = {
    "harmony": "<|channel|> <|message|>",
    "gemma4": "<|tool_call> <|channel>thought",
    "functiongemma": "<start_function_call>",
    "deepseek-r1": "<think> <｜tool▁calls▁begin｜> ```",
    "deepseek-v3.1": "<think> <｜tool▁calls▁begin｜>",
    "deepseek-v3.2": "<think> ｜DSML｜ function_calls",
    "deepseek-v4": "<think> ｜DSML｜ tool_calls",
    "minimax": "<think> <minimax:tool_call>",
    "kimi": "<|tool_calls_section_begin|>",
    "mistral, ids": "[TOOL_CALLS] [CALL_ID] [ARGS]",
    "mistral, arguments": "[TOOL_CALLS] [ARGS] [THINK]",
    "mistral, a list": "[TOOL_CALLS][",
    "command-r": "<|START_ACTION|> <|START_THINKING|>",
    "lfm2": "<|tool_call_start|>",
    "lfm2, a list of tools": "<|tool_list_start|>",
    "seed": "<seed:think> <seed:tool_call>",
    "glm": "<think> <tool_call> <arg_key>",
    "qwen-coder": "<tool_call> <function=",
    "functionary": "<function=",
    "apriel": "<thinking> <tool_calls>",
    "hermes": "<tool_call>",
    "hermes, thinking": "<think> <tool_call>",
    "granite, with responses": "<think> <response> <|tool_call|>",
    "granite": "<|tool_call|>",
    "nemotron": "<think> <TOOLCALL>",
    "llama4": '<|python_start|> {"parameters": } ipython',
    "llama": '{"parameters": } ipython',
    "gemma3": "<start_of_turn>",
    "generic": "",
}
FAMILIES = {name: family_for(template) for name, template in TEMPLATES.items()}

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer", "minimum": 1, "maximum": 7},
            },
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object"}}}
TOOLS = (WEATHER, CLOCK)
PARIS = {"city": "Paris", "days": 3}


def control_marks(family: Family) -> tuple[str, ...]:
    """Return the marks that are special tokens of such a model's vocabulary."""
    form = family.call_format
    given = (form.mark, *form.open, *form.call, *form.between, *form.close, *form.content)
    given += tuple(part for each in form.interludes for part in each)
    marks = {*family.silent, *family.notations, family.thought.open, family.thought.close}
    marks |= {part for part in given if isinstance(part, str)}
    marks |= {"<|channel>"} if family.thought.open.startswith("<|channel>") else set()
    return tuple(sorted(filter(is_control, marks)))


def written(family: Family, *calls: tuple[str, Mapping[str, Any]]) -> str:
    """Return calls as the family writes them, one beside the other."""
    form = family.call_format
    between = _filled(family, form.between)
    return "".join(
        [
            form.mark,
            _filled(family, form.open),
            between.join(_filled(family, form.call, *call) for call in calls),
            _filled(family, form.close),
        ]
    )


def _filled(
    family: Family,
    parts: Sequence[FormatPart],
    name: str = "",
    arguments: Mapping[str, Any] | None = None,
) -> str:
    texts = {
        FormatSlot.NAME: name,
        FormatSlot.ARGUMENTS: json.dumps(arguments),
        FormatSlot.ID: "abcdEF123",
        FormatSlot.NUMBER: "0",
        FormatSlot.COLON: ": ",
        FormatSlot.COMMA: ", ",
        FormatSlot.CUT: "",
        FormatSlot.PARAMETERS: "".join(
            _parameter(family, *each) for each in (arguments or {}).items()
        ),
    }
    return "".join(part if isinstance(part, str) else texts[part] for part in parts)


def _parameter(family: Family, key: str, value: Any) -> str:
    text = isinstance(value, str)
    texts = {
        FormatSlot.KEY: key,
        FormatSlot.KIND: json.dumps(text),
        FormatSlot.VALUE: value if text else json.dumps(value),
    }
    parts = family.call_format.parameter
    return "".join(part if isinstance(part, str) else texts[part] for part in parts)
