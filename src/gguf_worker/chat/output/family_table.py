"""The table of model families, in which a chat template is looked up.

The notations were read from the templates that llama.cpp ships in models/templates (Qwen 2.5, 3,
3-Coder and 3.5, Hermes 2 and 3, Llama 3.1 to 3.3, Functionary 3.1, Mistral Nemo, Small 3.2,
Devstral and Ministral 3, DeepSeek R1, V3.1, V3.2 and V4, gpt-oss, GLM 4.5 to 4.7, Kimi K2, Granite
3.3 and 4, Command R7B, Phi-4-mini, Gemma 4, Seed-OSS, MiniMax-M1 and M2, LFM2, Nemotron Nano 2,
Apriel 1.5); FunctionGemma's from Google's page on its format. A model whose template has no known
marks for calls (Gemma 2 and 3, SmolLM2) is asked to use those of Hermes; Gemma's fenced Python, to
which it falls back, is read too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from gguf_worker.chat.output import harmony, json_calls, python_calls, tag_calls
from gguf_worker.chat.output.family import THINK, Family
from gguf_worker.chat.output.gemma_calls import gemma_call
from gguf_worker.chat.output.grammar import CallFormat, FormatPart, FormatSlot
from gguf_worker.chat.output.parser import Thought

THOUGHTS = (
    Thought("[THINK]", "[/THINK]", anywhere=True, blank=""),
    Thought("<|START_THINKING|>", "<|END_THINKING|>", anywhere=True, blank=""),
    Thought("<|channel>thought", "<channel|>", anywhere=True, blank="\n"),
    Thought("<|inner_prefix|>", "<|inner_suffix|>", anywhere=True, blank=""),
    Thought("<seed:think>", "</seed:think>"),
    Thought("<thinking>", "</thinking>"),
    Thought("<thought>", "</thought>"),
    THINK,
)
"""Marks of thoughts: a model has the first pair that its template names, else the last pair."""

_OBJECT = ('{"name": "', FormatSlot.NAME, '", "arguments": ', FormatSlot.ARGUMENTS, "}")


def _list(mark: str, *end: str) -> CallFormat:
    """Return the format of calls as a JSON list of objects, between `mark` and `end`."""
    return CallFormat(mark, _OBJECT, open=("[",), between=(", ",), close=("]", *end))


_MISTRAL = {"[TOOL_CALLS]": json_calls.mistral}

_DEEPSEEK = {
    "<｜tool▁calls▁begin｜>": json_calls.deepseek,
    "<｜tool▁call▁begin｜>": json_calls.deepseek,
}


@dataclass(frozen=True, slots=True)
class _FamilyRow:
    """A family, with the marks of its templates: all of `has`, and none of `lacks`."""

    family: Family
    has: tuple[str, ...]
    lacks: tuple[str, ...] = ()

    def fits(self, template: str) -> bool:
        return all(mark in template for mark in self.has) and not any(
            mark in template for mark in self.lacks
        )


_HARMONY_FINAL = "<|channel|>final<|message|>"
_HARMONY_THOUGHT = (FormatSlot.THOUGHT, "<|end|>", "<|start|>", "assistant")

HARMONY = Family(
    "harmony",
    whole=harmony.answer,
    whole_outline=harmony.outline,
    closings=("<|end|><|start|>assistant", f"<|end|><|start|>assistant{_HARMONY_FINAL}"),
    empty_thought="<|channel|>analysis<|message|><|end|><|start|>assistant",
    least_effort="low",
    thinks=True,
    call_format=CallFormat(
        thought=("<|channel|>", "analysis", "<|message|>", *_HARMONY_THOUGHT),
        after_thought=_HARMONY_THOUGHT,
        content=("<|channel|>", "final", "<|message|>"),
        interludes=tuple(
            ("<|channel|>", channel, "<|message|>", *_HARMONY_THOUGHT)
            for channel in ("analysis", "commentary")
        ),
        mark="<|channel|>",
        call=(
            *("commentary to=functions.", FormatSlot.NAME, " ", "<|constrain|>", "json"),
            *("<|message|>", FormatSlot.ARGUMENTS),
        ),
        many=False,
    ),
)

LFM2 = Family(
    "lfm2",
    {"<|tool_call_start|>": python_calls.list_until("<|tool_call_end|>")},
    _list("<|tool_call_start|>", "<|tool_call_end|>"),
    dropped=("<|tool_call_end|>",),
    python_names=True,
)

_LLAMA = Family(
    "llama",
    {"<|python_tag|>": python_calls.python_tag, "<function=": tag_calls.function},
    CallFormat(
        mark="",
        call=(
            *("{", FormatSlot.CUT, '"name"', FormatSlot.COLON),
            *('"', FormatSlot.NAME, '"', FormatSlot.COMMA),
            *('"parameters"', FormatSlot.COLON, FormatSlot.ARGUMENTS, "}"),
        ),
        many=False,
    ),
    unmarked=python_calls.unmarked,
    python_names=True,
)

_GRANITE = Family(
    "granite",
    {"<|tool_call|>": json_calls.list_until("<|/tool_call|>")},
    _list("<|tool_call|>"),
    dropped=("<|/tool_call|>",),
)

GENERIC = Family("generic", show_special=False, needs_instructions=True)


def _invocations(prefix: str, block: str, kind: tuple[FormatPart, ...] = ()) -> CallFormat:
    """Return the format of `tag_calls.invocations`; `kind` says what a parameter's value is."""
    return CallFormat(
        mark=f"<{prefix}{block}>",
        open=("\n",),
        call=(
            *(f'<{prefix}invoke name="', FormatSlot.NAME, '">\n'),
            *(FormatSlot.PARAMETERS, f"</{prefix}invoke>\n"),
        ),
        parameter=(
            *(f'<{prefix}parameter name="', FormatSlot.KEY, '"', *kind, ">"),
            *(FormatSlot.VALUE, f"</{prefix}parameter>\n"),
        ),
        close=(f"</{prefix}{block}>",),
    )


def _deepseek_v32(block: str) -> Family:
    """Return DeepSeek V3.2 (or V4), whose calls are in a `block`."""
    kind = (' string="', FormatSlot.KIND, '"')
    return Family(
        "deepseek-v3.2",
        {
            f"<｜DSML｜{each}>": tag_calls.invocations("｜DSML｜", each)
            for each in ("function_calls", "tool_calls")
        },
        _invocations("｜DSML｜", block, kind),
    )


def _functions(mark: str, close: str) -> CallFormat:
    """Return the format of Qwen3-Coder's calls, between `mark` and `close`."""
    return CallFormat(
        mark=mark,
        call=(
            *("\n<function=", FormatSlot.NAME, ">\n"),
            *(FormatSlot.PARAMETERS, "</function>\n", close),
        ),
        parameter=(*("<parameter=", FormatSlot.KEY, ">\n", FormatSlot.VALUE, "\n</parameter>\n"),),
        between=("\n", mark),
    )


_GLM = CallFormat(
    mark="<tool_call>",
    call=(FormatSlot.NAME, "\n", FormatSlot.PARAMETERS, "</tool_call>"),
    parameter=(
        *("<arg_key>", FormatSlot.KEY, "</arg_key>\n"),
        *("<arg_value>", FormatSlot.VALUE, "</arg_value>\n"),
    ),
    between=("\n", "<tool_call>"),
)

_TABLE = (
    _FamilyRow(HARMONY, ("<|channel|>", "<|message|>")),
    _FamilyRow(
        Family(
            "gemma4",
            {"<|tool_call>": gemma_call('<|"|>', "<tool_call|>")},
            CallFormat("<|tool_call>", (*_OBJECT, "<tool_call|>"), between=("<|tool_call>",)),
            dropped=('<|"|>',),
        ),
        ("<|tool_call>",),
    ),
    _FamilyRow(
        Family(
            "functiongemma",
            {"<start_function_call>": gemma_call("<escape>", "<end_function_call>")},
            CallFormat(
                "<start_function_call>",
                (*_OBJECT, "<end_function_call>"),
                between=("<start_function_call>",),
            ),
            dropped=("<start_function_call>", "<end_function_call>", "<escape>"),
        ),
        ("<start_function_call>",),
    ),
    _FamilyRow(
        Family(
            "deepseek-r1",
            _DEEPSEEK,
            CallFormat(
                mark="<｜tool▁calls▁begin｜>",
                call=(
                    *("<｜tool▁call▁begin｜>", "function", "<｜tool▁sep｜>", FormatSlot.NAME),
                    *("\n```json\n", FormatSlot.ARGUMENTS, "\n```", "<｜tool▁call▁end｜>"),
                ),
                between=("\n",),
                close=("<｜tool▁calls▁end｜>",),
            ),
        ),
        ("<｜tool▁calls▁begin｜>", "```"),
    ),
    _FamilyRow(
        Family(
            "deepseek-v3.1",
            _DEEPSEEK,
            CallFormat(
                mark="<｜tool▁calls▁begin｜>",
                call=(
                    *("<｜tool▁call▁begin｜>", FormatSlot.NAME, "<｜tool▁sep｜>"),
                    *(FormatSlot.ARGUMENTS, "<｜tool▁call▁end｜>"),
                ),
                close=("<｜tool▁calls▁end｜>",),
            ),
        ),
        ("<｜tool▁calls▁begin｜>",),
    ),
    _FamilyRow(_deepseek_v32("function_calls"), ("｜DSML｜", "function_calls")),
    _FamilyRow(_deepseek_v32("tool_calls"), ("｜DSML｜",)),
    _FamilyRow(
        Family(
            "minimax",
            {"<minimax:tool_call>": tag_calls.invocations("", "minimax:tool_call")},
            _invocations("", "minimax:tool_call"),
        ),
        ("<minimax:tool_call>",),
    ),
    _FamilyRow(
        Family(
            "kimi",
            {"<|tool_calls_section_begin|>": json_calls.kimi},
            CallFormat(
                mark="<|tool_calls_section_begin|>",
                call=(
                    *("<|tool_call_begin|>", "functions.", FormatSlot.NAME, ":", FormatSlot.NUMBER),
                    *("<|tool_call_argument_begin|>", FormatSlot.ARGUMENTS, "<|tool_call_end|>"),
                ),
                close=("<|tool_calls_section_end|>",),
            ),
        ),
        ("<|tool_calls_section_begin|>",),
    ),
    _FamilyRow(
        Family(
            "mistral",
            _MISTRAL,
            CallFormat(
                mark="[TOOL_CALLS]",
                call=(FormatSlot.NAME, "[CALL_ID]", FormatSlot.ID, "[ARGS]", FormatSlot.ARGUMENTS),
                between=("[TOOL_CALLS]",),
            ),
        ),
        ("[TOOL_CALLS]", "[CALL_ID]"),
    ),
    _FamilyRow(
        Family(
            "mistral",
            _MISTRAL,
            CallFormat(
                mark="[TOOL_CALLS]",
                call=(FormatSlot.NAME, "[ARGS]", FormatSlot.ARGUMENTS),
                between=("[TOOL_CALLS]",),
            ),
        ),
        ("[TOOL_CALLS]", "[ARGS]"),
    ),
    _FamilyRow(
        Family("mistral", _MISTRAL, _list("[TOOL_CALLS]")),
        ("[TOOL_CALLS]",),
    ),
    _FamilyRow(
        Family(
            "command-r",
            {
                "<|START_ACTION|>": json_calls.command_r,
            },
            CallFormat(
                mark="<|START_ACTION|>",
                open=("[\n    ",),
                call=(
                    *(
                        '{"tool_call_id": "',
                        FormatSlot.NUMBER,
                        '", "tool_name": "',
                        FormatSlot.NAME,
                    ),
                    *('", "parameters": ', FormatSlot.ARGUMENTS, "}"),
                ),
                between=(",\n    ",),
                close=("\n]", "<|END_ACTION|>"),
                content=("<|START_RESPONSE|>",),
            ),
            dropped=("<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>"),
        ),
        ("<|START_ACTION|>",),
    ),
    _FamilyRow(LFM2, ("<|tool_call_start|>",)),
    _FamilyRow(LFM2, ("<|tool_list_start|>",)),
    _FamilyRow(
        Family(
            "seed",
            {"<seed:tool_call>": tag_calls.seed},
            _functions("<seed:tool_call>", "</seed:tool_call>"),
        ),
        ("<seed:tool_call>",),
    ),
    _FamilyRow(Family("glm", call_format=_GLM, show_special=False), ("<tool_call>", "<arg_key>")),
    _FamilyRow(
        Family(
            "qwen-coder",
            {"<function=": tag_calls.unopened_function},
            _functions("<tool_call>", "</tool_call>"),
            show_special=False,
        ),
        ("<tool_call>", "<function="),
    ),
    _FamilyRow(
        Family(
            "functionary",
            {"<function=": tag_calls.function, "<|python_tag|>": python_calls.python_tag},
            CallFormat(
                mark="<function=",
                call=(FormatSlot.NAME, ">", FormatSlot.ARGUMENTS, "</function>"),
                between=("<function=",),
            ),
        ),
        ("<function=",),
    ),
    _FamilyRow(
        Family(
            "apriel",
            {"<tool_calls>": json_calls.list_until("</tool_calls>")},
            _list("<tool_calls>", "</tool_calls>"),
        ),
        ("<tool_calls>",),
    ),
    _FamilyRow(Family("hermes", show_special=False), ("<tool_call>",), ("<invoke",)),
    _FamilyRow(
        replace(_GRANITE, dropped=("<|/tool_call|>", "<response>", "</response>")),
        ("<|tool_call|>", "<response>"),
    ),
    _FamilyRow(_GRANITE, ("<|tool_call|>",)),
    _FamilyRow(
        Family(
            "nemotron",
            {"<TOOLCALL>": json_calls.list_until("</TOOLCALL>")},
            _list("<TOOLCALL>", "</TOOLCALL>"),
        ),
        ("<TOOLCALL>",),
    ),
    _FamilyRow(
        replace(
            _LLAMA,
            name="llama4",
            notations={
                "<|python_start|>": python_calls.list_until("<|python_end|>", declared_only=True),
                "<function=": tag_calls.function,
            },
            dropped=("<|python_end|>",),
        ),
        ("<|python_start|>",),
    ),
    _FamilyRow(_LLAMA, ('"parameters": ', "ipython")),
    _FamilyRow(
        Family(
            "gemma3",
            {"```tool_code": python_calls.tool_code},
            show_special=False,
            needs_instructions=True,
            python_names=True,
        ),
        ("<start_of_turn>",),
    ),
)
"""The rows of the table: a model's family is that of the first row that fits its template."""

_BY_ARCHITECTURE = {"gpt-oss": HARMONY}
"""Families by architecture, for models that write in one way whatever their template is."""


def family_for(template: str | None, architecture: str = "") -> Family:
    """Return the family of a model with this chat template and GGUF architecture."""
    text = template or ""
    fitting = (row.family for row in _TABLE if row.fits(text))
    family = _BY_ARCHITECTURE.get(architecture) or next(fitting, GENERIC)
    known = next((each for each in THOUGHTS if each.known_to(text)), None)
    thought = known or THINK
    return replace(
        family,
        thought=thought,
        thinks=family.thinks or known is not None,
        show_special=family.show_special or thought.anywhere,
    )
