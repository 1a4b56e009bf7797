"""Families of models: the reading of their answers, and the grammar of their calls."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gguf_worker.chat.output import grammar
from gguf_worker.chat.output.answer_reader import AnswerReader, Incremental
from gguf_worker.chat.output.declared_tools import DeclaredTools
from gguf_worker.chat.output.event_writer import EventWriter
from gguf_worker.chat.output.grammar import CallFormat, FormatSlot, FreeText, Thinking
from gguf_worker.chat.output.notation import (
    CALL_ENDS,
    Notation,
    is_control,
    no_calls,
    unmarked_begins,
)
from gguf_worker.chat.output.parser import AnswerParser, Thought, marked_answer
from gguf_worker.chat.output.tag_calls import tool_call
from gguf_worker.generation import Outline, Phase, PhaseMark

THINK = Thought("<think>", "</think>")

HERMES = CallFormat(
    mark="<tool_call>",
    call=(
        *('\n{"name": "', FormatSlot.NAME, '", "arguments": ', FormatSlot.ARGUMENTS, "}\n"),
        "</tool_call>",
    ),
    between=("\n", "<tool_call>"),
)


@dataclass(frozen=True, slots=True)
class Family:
    """A family: models that write thoughts and calls alike."""

    name: str
    notations: Mapping[str, Notation] = field(default_factory=dict)
    """Readers of calls, by the mark that opens each; `<tool_call>` is always read too."""
    call_format: CallFormat = HERMES
    """The format of demanded calls; Hermes's if a schema cannot constrain the family's own."""
    unmarked: Notation | None = None
    """The reader of calls that are the whole answer, with no mark."""
    whole: Callable[[AnswerReader, EventWriter, DeclaredTools, bool], Incremental[None]] | None = (
        None
    )
    """The reader of whole answers that are not made of thoughts, text and calls between marks."""
    whole_outline: Callable[[bool, bool], tuple[tuple[Phase, ...], int]] | None = None
    """The phases of such answers, and the first: given whether calls are read, and whether the
    prompt ends inside a thought."""
    thought: Thought = THINK
    closings: tuple[str, ...] = ()
    """The texts that end a thought, the first time, the second…; none: the mark that closes it."""
    empty_thought: str = ""
    """The text of an empty thought; "": the marks of one."""
    least_effort: str | None = None
    """The `reasoning_effort` for an answer without a thought, if the template has none for that."""
    thinks: bool = False
    """The models may begin an answer with a thought by themselves."""
    show_special: bool = True
    """Show special tokens even if no mark is a control token of the model's vocabulary."""
    needs_instructions: bool = False
    """The template has no tools, so the messages have to describe them (`plain_messages`)."""
    dropped: tuple[str, ...] = ()
    """Marks that are no part of the content wherever they stand, with tools or without; so are all
    others of the family that look like a special token."""
    python_names: bool = False
    """Calls may be written in Python, where a tool's name has to be an identifier."""

    @property
    def silent(self) -> frozenset[str]:
        """The marks that are never content."""
        form = self.call_format
        parts = (form.mark, *form.open, *form.call, *form.between, *form.close, *form.content)
        marks = (*self.notations, *(part for part in parts if isinstance(part, str)))
        return frozenset({*self.dropped, *filter(is_control, marks)} - {self.thought.open})

    def shows_special(self, special: Collection[str]) -> bool:
        """Tell if the engine has to show `special`, the control tokens of a model's vocabulary."""
        marks = {self.thought.open, self.thought.close, *self.notations, self.call_format.mark}
        return self.show_special or not marks.isdisjoint(special)

    def parser(
        self, tools: Sequence[Mapping[str, Any]], *, thinking: bool = False, formatted: bool = False
    ) -> AnswerParser:
        """Return the parser of one answer, which may call `tools`.

        `thinking`: its prompt ends inside a thought. `formatted`: it is either calls or content, by
        `answer_grammar`; so once content has begun, marks are content too.
        """
        declared = DeclaredTools(tools)
        whole = self.whole
        if whole is not None:
            return AnswerParser(
                lambda reader, writer: whole(reader, writer, declared, thinking),
                calls=bool(declared),
            )
        return AnswerParser(
            marked_answer(
                self.thought,
                {**dict.fromkeys(self.silent, no_calls), **self._readers(declared)},
                self.unmarked,
                declared,
                thinking=thinking,
                formatted=formatted,
            ),
            calls=bool(declared),
        )

    def outline(
        self,
        tools: Sequence[Mapping[str, Any]],
        *,
        thinking: bool = False,
        formatted: bool = False,
    ) -> Outline:
        """Return the outline of an answer that is read by `parser` with the same arguments."""
        if self.whole_outline is not None:
            phases, begin = self.whole_outline(bool(tools), thinking)
        else:
            phases, begin = self._phases(tools, formatted), int(thinking)
        return Outline(phases, begin, self.closings or (self.thought.close,))

    def _phases(self, tools: Sequence[Mapping[str, Any]], formatted: bool) -> tuple[Phase, ...]:
        """Return content, a thought, and a phase for each mark of calls that is read."""
        notations: dict[str, Notation] = dict.fromkeys(self.silent, no_calls)
        if tools:
            notations |= {"<tool_call>": tool_call, **self.notations}
        first = formatted or not self.thought.anywhere
        content = [PhaseMark(self.thought.open, 1, first)]
        others = [Phase("thought", (PhaseMark(self.thought.close, 0),))]
        if tools and self.unmarked is not None:
            others.append(Phase("other"))
            begins = unmarked_begins(tool["function"]["name"] for tool in tools)
            content += [PhaseMark(begin, len(others), True) for begin in begins]
        for mark, notation in notations.items():
            if notation is no_calls:
                content.append(PhaseMark(mark, 0, formatted))
                continue
            others.append(Phase("other", _ends_of(mark)))
            content.append(PhaseMark(mark, len(others), formatted))
        return (Phase("content", tuple(content)), *others)

    def without_thought(self, prompt: str, *, begun: bool) -> str:
        """Return the text after `prompt` by which the model answers without a thought; `begun`: one
        is open there.

        "" where the model has no thoughts, or the prompt has ended them.
        """
        if begun:
            return self.closings[0] if self.closings else self._rest_of_empty(prompt)
        if self.thinking(prompt, begun=False) is Thinking.OVER:
            return ""
        return self.empty_thought or self.thought.empty

    def _rest_of_empty(self, prompt: str) -> str:
        """Return the end of an empty thought that `prompt` has begun, white space included."""
        blank = self.thought.blank
        written = len(prompt) - len(prompt.rstrip())
        return blank[written:] + self.thought.ending

    def _readers(self, declared: DeclaredTools) -> Mapping[str, Notation]:
        """Return the readers of calls, if there are any to be read."""
        return {"<tool_call>": tool_call, **self.notations} if declared else {}

    def thinking(self, prompt: str, *, begun: bool) -> Thinking:
        """Return the state of the thought at the end of `prompt`; `begun`: one is open there."""
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
        free: bool = False,
        within: bool = False,
        special: Mapping[str, int] | None = None,
    ) -> str:
        """Return the grammar of an answer: calls of `tools`, or (`formatted`) `@inner`.

        It is in llguidance's dialect of lark. `special`: the ids of the vocabulary's control
        tokens, by their texts; other marks are written as text. If the family does not mark calls,
        a formatted answer that names a tool as a call does is read as a call. `free`: an answer may
        have text in the place of calls, or beside them; it is held to the grammar from a call's
        mark on. `within`: the prompt ends inside the text of a free answer.
        """
        thoughts = (self.thought.open, self.thought.close) if self.thought.anywhere else ()
        marks = FreeText(
            forbidden=("<tool_call>", *self.notations),
            allowed=(*thoughts, *(self.silent - self.notations.keys())),
        )
        return grammar.answer_grammar(
            self.call_format,
            tools,
            special or {},
            (self.thought.open, self.thought.close),
            parallel=parallel,
            thinking=thinking,
            formatted=formatted,
            free=marks if free else None,
            within=within,
        )


def _ends_of(mark: str) -> tuple[PhaseMark, ...]:
    end = CALL_ENDS.get(mark)
    return () if end is None else (PhaseMark(end, 0),)
