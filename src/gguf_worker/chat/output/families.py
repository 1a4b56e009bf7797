"""Which model writes its thoughts and calls in which way: a table, asked with the model's chat template.

The notations were read from the templates that llama.cpp ships in models/templates (Qwen 2.5, 3, 3-Coder and
3.5, Hermes 2 and 3, Llama 3.1 to 3.3, Functionary 3.1, Mistral Nemo, Small 3.2, Devstral and Ministral 3,
DeepSeek R1, V3.1, V3.2 and V4, gpt-oss, GLM 4.5 to 4.7, Kimi K2, Granite 3.3 and 4, Command R7B, Phi-4-mini,
Gemma 4, Seed-OSS, MiniMax-M1 and M2, LFM2, Nemotron Nano 2, Apriel 1.5); FunctionGemma's from Google's page
on its format. A model whose template has no known marks for calls (Gemma 2 and 3, SmolLM2) is taught those
of Hermes; Gemma's fences of Python, which it falls back to, are read all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gguf_worker.chat.output import calls, grammar, harmony
from gguf_worker.chat.output.calls import Notation
from gguf_worker.chat.output.declared import Declared
from gguf_worker.chat.output.event_writer import EventWriter
from gguf_worker.chat.output.grammar import CallFormat, Slot, Thinking
from gguf_worker.chat.output.parser import Parser, Thought, marked
from gguf_worker.chat.output.reader import Reader, Reading

THINK = Thought("<think>", "</think>")

THOUGHTS = (
    Thought("[THINK]", "[/THINK]", anywhere=True),
    Thought("<|START_THINKING|>", "<|END_THINKING|>", anywhere=True),
    Thought("<|channel>thought", "<channel|>", anywhere=True),
    Thought("<|inner_prefix|>", "<|inner_suffix|>", anywhere=True),
    Thought("<seed:think>", "</seed:think>"),
    Thought("<thinking>", "</thinking>"),
    Thought("<thought>", "</thought>"),
    THINK,
)
"""A model's is the first that its template knows; the last one where it knows none."""

HERMES = CallFormat(
    mark="<tool_call>",
    call=('\n{"name": "', Slot.NAME, '", "arguments": ', Slot.ARGUMENTS, "}\n", "</tool_call>"),
    between=("\n", "<tool_call>"),
)

_OBJECT = ('{"name": "', Slot.NAME, '", "arguments": ', Slot.ARGUMENTS, "}")


def _list(mark: str, *end: str) -> CallFormat:
    """Calls as a JSON list of objects."""
    return CallFormat(mark, _OBJECT, opening=("[",), between=(", ",), close=("]", *end))


_MISTRAL = {"[TOOL_CALLS]": calls.mistral}

_DEEPSEEK = {
    "<｜tool▁calls▁begin｜>": calls.deepseek,
    "<｜tool▁call▁begin｜>": calls.deepseek,
}


@dataclass(frozen=True, slots=True)
class Family:
    """Models that write alike.

    `thinks`: they may begin an answer with a thought by themselves. `show_special`: marks are special
    tokens, whatever they are in this vocabulary. `teaches`: the template knows no tools, so the messages
    have to (`instructions`, `plain_messages`).
    """

    name: str
    notations: Mapping[str, Notation] = field(default_factory=dict)
    """By the mark that opens it."""
    written: CallFormat = HERMES
    """How a call is written that has to be one. What can't be held to a schema is written as Hermes does."""
    bare: Notation | None = None
    whole: Callable[[Reader, EventWriter, Declared, bool], Reading[None]] | None = None
    """The reading of an answer that is not made of thoughts, text and calls between marks."""
    thought: Thought = THINK
    thinks: bool = False
    show_special: bool = True
    teaches: bool = False

    def shows_special(self, special: Collection[str]) -> bool:
        """Has the engine to show `special`, the control tokens of a model's vocabulary?"""
        marks = {self.thought.open, self.thought.close, *self.notations, self.written.mark}
        return self.show_special or not marks.isdisjoint(special)

    def parser(
        self, tools: Sequence[Mapping[str, Any]], *, thinking: bool = False, formatted: bool = False
    ) -> Parser:
        """For one answer, which may call `tools`; `thinking`: its prompt ends inside of a thought.

        `formatted`: it is calls or content, by `answer_grammar`, so content goes on whatever it looks like.
        """
        declared = Declared(tools)
        whole = self.whole
        if whole is not None:
            return Parser(lambda reader, writer: whole(reader, writer, declared, thinking))
        notations = {"<tool_call>": calls.tagged, **self.notations}
        return Parser(marked(self.thought, notations, self.bare, declared, thinking, formatted))

    def thinking(self, prompt: str, *, begun: bool) -> Thinking:
        """Whether the answer to `prompt` begins with a thought; `begun`: the prompt has opened one."""
        if begun:
            return Thinking.BEGUN
        over = not self.thinks or prompt.rstrip().endswith(self.thought.close)
        return Thinking.OVER if over else Thinking.OPTIONAL

    def answer_grammar(
        self,
        tools: Sequence[Mapping[str, Any]],
        *,
        parallel: bool = True,
        thinking: Thinking = Thinking.OVER,
        formatted: bool = False,
        special: Mapping[str, int] | None = None,
    ) -> str:
        """What an answer has to match to be calls of `tools`, or (`formatted`) `@inner`, as llguidance's lark.

        `special`: the vocabulary's control tokens, with their ids; other marks are written as text. Where
        the family marks no calls, an object of the format's that names a tool as a call does is read as one.
        """
        return grammar.of_answer(
            self.written,
            tools,
            special or {},
            (self.thought.open, self.thought.close),
            parallel=parallel,
            thinking=thinking,
            formatted=formatted,
        )


@dataclass(frozen=True, slots=True)
class _Row:
    """A family, and what tells it: a template with all of `has` and none of `lacks`."""

    family: Family
    has: tuple[str, ...]
    lacks: tuple[str, ...] = ()

    def fits(self, template: str) -> bool:
        return all(mark in template for mark in self.has) and not any(
            mark in template for mark in self.lacks
        )


_HARMONY_THOUGHT = (Slot.THOUGHT, "<|end|>", "<|start|>", "assistant")

HARMONY = Family(
    "harmony",
    whole=harmony.answer,
    thinks=True,
    written=CallFormat(
        thought=("<|channel|>", "analysis", "<|message|>", *_HARMONY_THOUGHT),
        after_thought=_HARMONY_THOUGHT,
        content=("<|channel|>", "final", "<|message|>"),
        mark="<|channel|>",
        call=(
            *("commentary to=functions.", Slot.NAME, " ", "<|constrain|>", "json"),
            *("<|message|>", Slot.ARGUMENTS),
        ),
        many=False,
    ),
)

LFM2 = Family("lfm2", {"<|tool_call_start|>": calls.python_list})

GENERIC = Family("generic", show_special=False, teaches=True)

_TABLE = (
    _Row(HARMONY, ("<|channel|>", "<|message|>")),
    _Row(
        Family("gemma4", {"<|tool_call>": calls.gemmas('<|"|>', "<tool_call|>")}),
        ("<|tool_call>",),
    ),
    _Row(
        Family(
            "functiongemma",
            {"<start_function_call>": calls.gemmas("<escape>", "<end_function_call>")},
        ),
        ("<start_function_call>",),
    ),
    _Row(
        Family(
            "deepseek-r1",
            _DEEPSEEK,
            CallFormat(
                mark="<｜tool▁calls▁begin｜>",
                call=(
                    *("<｜tool▁call▁begin｜>", "function", "<｜tool▁sep｜>", Slot.NAME),
                    *("\n```json\n", Slot.ARGUMENTS, "\n```", "<｜tool▁call▁end｜>"),
                ),
                between=("\n",),
                close=("<｜tool▁calls▁end｜>",),
            ),
        ),
        ("<｜tool▁calls▁begin｜>", "```"),
    ),
    _Row(
        Family(
            "deepseek-v3.1",
            _DEEPSEEK,
            CallFormat(
                mark="<｜tool▁calls▁begin｜>",
                call=(
                    *("<｜tool▁call▁begin｜>", Slot.NAME, "<｜tool▁sep｜>"),
                    *(Slot.ARGUMENTS, "<｜tool▁call▁end｜>"),
                ),
                close=("<｜tool▁calls▁end｜>",),
            ),
        ),
        ("<｜tool▁calls▁begin｜>",),
    ),
    _Row(
        Family(
            "deepseek-v3.2",
            {
                f"<｜DSML｜{block}>": calls.invocations("｜DSML｜", block)
                for block in ("function_calls", "tool_calls")
            },
        ),
        ("｜DSML｜",),
    ),
    _Row(
        Family("minimax", {"<minimax:tool_call>": calls.invocations("", "minimax:tool_call")}),
        ("<minimax:tool_call>",),
    ),
    _Row(
        Family(
            "kimi",
            {"<|tool_calls_section_begin|>": calls.kimi},
            CallFormat(
                mark="<|tool_calls_section_begin|>",
                call=(
                    *("<|tool_call_begin|>", "functions.", Slot.NAME, ":", Slot.NUMBER),
                    *("<|tool_call_argument_begin|>", Slot.ARGUMENTS, "<|tool_call_end|>"),
                ),
                close=("<|tool_calls_section_end|>",),
            ),
        ),
        ("<|tool_calls_section_begin|>",),
    ),
    _Row(
        Family(
            "mistral",
            _MISTRAL,
            CallFormat(
                mark="[TOOL_CALLS]",
                call=(Slot.NAME, "[CALL_ID]", Slot.ID, "[ARGS]", Slot.ARGUMENTS),
                between=("[TOOL_CALLS]",),
            ),
        ),
        ("[TOOL_CALLS]", "[CALL_ID]"),
    ),
    _Row(
        Family(
            "mistral",
            _MISTRAL,
            CallFormat(
                mark="[TOOL_CALLS]",
                call=(Slot.NAME, "[ARGS]", Slot.ARGUMENTS),
                between=("[TOOL_CALLS]",),
            ),
        ),
        ("[TOOL_CALLS]", "[ARGS]"),
    ),
    _Row(
        Family("mistral", _MISTRAL, _list("[TOOL_CALLS]")),
        ("[TOOL_CALLS]",),
    ),
    _Row(
        Family(
            "command-r",
            {
                "<|START_ACTION|>": calls.command,
                "<|START_RESPONSE|>": calls.nothing,
                "<|END_RESPONSE|>": calls.nothing,
            },
            CallFormat(
                mark="<|START_ACTION|>",
                opening=("[\n    ",),
                call=(
                    *('{"tool_call_id": "', Slot.NUMBER, '", "tool_name": "', Slot.NAME),
                    *('", "parameters": ', Slot.ARGUMENTS, "}"),
                ),
                between=(",\n    ",),
                close=("\n]", "<|END_ACTION|>"),
                content=("<|START_RESPONSE|>",),
            ),
        ),
        ("<|START_ACTION|>",),
    ),
    _Row(LFM2, ("<|tool_call_start|>",)),
    _Row(LFM2, ("<|tool_list_start|>",)),
    _Row(Family("seed", {"<seed:tool_call>": calls.seed}), ("<seed:tool_call>",)),
    _Row(Family("glm", show_special=False), ("<tool_call>", "<arg_key>")),
    _Row(
        Family("qwen-coder", {"<function=": calls.untagged}, show_special=False),
        ("<tool_call>", "<function="),
    ),
    _Row(
        Family(
            "functionary",
            {"<function=": calls.function, "<|python_tag|>": calls.python_tag},
            CallFormat(
                mark="<function=",
                call=(Slot.NAME, ">", Slot.ARGUMENTS, "</function>"),
                between=("<function=",),
            ),
        ),
        ("<function=",),
    ),
    _Row(
        Family(
            "apriel",
            {"<tool_calls>": calls.listed("</tool_calls>")},
            _list("<tool_calls>", "</tool_calls>"),
        ),
        ("<tool_calls>",),
    ),
    _Row(Family("hermes", show_special=False), ("<tool_call>",), ("<invoke",)),
    _Row(
        Family(
            "granite",
            {"<|tool_call|>": calls.listed("<|/tool_call|>")},
            _list("<|tool_call|>"),
        ),
        ("<|tool_call|>",),
    ),
    _Row(
        Family(
            "nemotron",
            {"<TOOLCALL>": calls.listed("</TOOLCALL>")},
            _list("<TOOLCALL>", "</TOOLCALL>"),
        ),
        ("<TOOLCALL>",),
    ),
    _Row(
        Family(
            "llama",
            {"<|python_tag|>": calls.python_tag, "<function=": calls.function},
            CallFormat(
                mark="",
                call=(
                    *("{", Slot.CUT, '"name"', Slot.COLON, '"', Slot.NAME, '"', Slot.COMMA),
                    *('"parameters"', Slot.COLON, Slot.ARGUMENTS, "}"),
                ),
                many=False,
            ),
            bare=calls.bare,
        ),
        ('"parameters": ', "ipython"),
    ),
    _Row(
        Family("gemma3", {"```tool_code": calls.tool_code}, show_special=False, teaches=True),
        ("<start_of_turn>",),
    ),
)
"""The first that fits is a model's."""

_BY_ARCHITECTURE = {"gpt-oss": HARMONY}
"""Models that write in one way only, whatever template their file has."""


def family_for(template: str | None, architecture: str = "") -> Family:
    """The family of a model, by its chat template and its GGUF architecture."""
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
