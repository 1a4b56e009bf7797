"""Renders a chat as the model expects it: by its own template, in a sandbox.

Neither the template, which comes from the model's file, nor the messages are trusted. The text
stays as the template made it: a doubled BOS is dropped later, where tokens are known. The module
depends on no tokeniser and no wire format.
"""

from __future__ import annotations

import json
import logging
import operator
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from itertools import takewhile
from typing import Any, Literal

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.meta import find_undeclared_variables
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from gguf_worker.chat.normalise import MessageRules, moves_systems, normalised, rules_of
from gguf_worker.chat.time_limit import at_most
from gguf_worker.chat.tool_history import ToolHistory, described
from gguf_worker.chat.tool_instructions import plain_messages
from gguf_worker.errors import GenerationFailed, InvalidRequest

log = logging.getLogger("gguf_worker.models")

MAX_RENDERED = 16 * 2**20
"""Characters that a rendered chat may have: several times what a million tokens hold."""

MAX_SEARCHED = 256 * 1024
"""Characters of the longest rendered chat in which reuse points are looked for."""

SHORTEST_PREFIX = 32
"""Characters of the shortest shared prefix whose end counts as a reuse point."""

_LONGEST_TRIAL = 2.0
"""Seconds that all trials of a template together may take."""

_KEPT_PREFIXES = 8
_MAX_EXPONENT = 64
_MAX_WIDTH = 4
_WIDE = re.compile(rf"%(?:\([^)]*\))?[-+ #0-9.]*(?:\*|\d{{{_MAX_WIDTH + 1}}})")
"""A conversion in a format string whose width or precision has too many digits, or is `*`.

`*` takes its number from another value.
"""
_MAX_MESSAGE = 500
_OPTIONS = "chat_template_kwargs"

_THOUGHT_STARTS = (
    "<think>",
    "<thinking>",
    "<thought>",
    "<seed:think>",
    "[THINK]",
    "<|START_THINKING|>",
    "<|inner_prefix|>",
    "<|channel>thought",
    "<|channel|>analysis<|message|>",
)
"""Marks that open a thought; the prompts of some templates end with one."""
_THOUGHT_ENDS = (
    "</think>",
    "</thinking>",
    "</thought>",
    "</seed:think>",
    "[/THINK]",
    "<|END_THINKING|>",
    "<|inner_suffix|>",
    "<channel|>",
    "<|end|>",
)

_GOES_ON = "[[the-answer-goes-on-here]]"
"""A text that marks, in a rendered chat, where its last message ends."""

_CHANNELS: Mapping[str, Literal["thought", "content"]] = {
    "content": "content",
    "reasoning_content": "thought",
}
"""The fields of a message that an answer may go on from."""

_FOLDED = (
    "the model's chat template takes a system message at the beginning only: a later one became "
    "a part of a user's message"
)

_SOME_THOUGHT = 1024
"""A budget of a thought, in tokens, to ask a template what it writes."""

_TEMPLATE_FAULTS = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)


def thinking_options(thinking: bool | None, budget: int | None) -> dict[str, Any]:
    """Return the variables by which templates switch thoughts on or off, under their usual names.

    `budget` is in tokens. None: the template decides.
    """
    options: dict[str, Any] = {}
    if thinking is not None:
        options = {"enable_thinking": thinking, "thinking": thinking}
    if thinking is False or budget is not None:
        options["thinking_budget"] = 0 if thinking is False else budget
    return options


Ending = Literal["turn", "inside", "bare"]
"""The end of a prompt: an opened turn, the text of the last message, or that message's end."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A chat as the model reads it, up to where the assistant's answer begins.

    `reuse_points` are offsets into the text (characters), ascending, up to which other prompts are
    likely to be the same: those of other chats, and those of this chat's next turns. `within`: the
    answer goes on from a thought or a text that the prompt has begun. `warnings`: sentences about
    what is not written as it was sent.
    """

    text: str
    reuse_points: tuple[int, ...] = ()
    within: Literal["", "thought", "content"] = ""
    warnings: tuple[str, ...] = ()

    @property
    def thinking(self) -> bool:
        """True if the text ends inside a thought, so that the answer begins with one."""
        if self.within:
            return self.within == "thought"
        return self.text.rstrip().endswith(_THOUGHT_STARTS)


class ChatTemplate:
    """Renders chats for one model.

    `template` is the text of the template in the model's file, None if there is none; `bos` and
    `eos` are the texts of these tokens. A template that does not compile is logged once, here; only
    chats fail then, and not plain prompts.
    """

    def __init__(
        self,
        template: str | None,
        bos: str,
        eos: str,
        *,
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        self._fault: str | None = None
        self._template: jinja2.Template | None = None
        self._reuse_points = _ReusePoints(self._render)
        self._trial_left = _LONGEST_TRIAL
        self._history = ToolHistory(self._try, template or "")
        self._uses_tools = False
        self._given: dict[str, Any] = {
            "bos_token": bos,
            "eos_token": eos,
            "tools": None,
            "documents": None,
            "add_generation_prompt": True,
        }
        if template is None:
            return
        environment = _environment(now)
        try:
            tree = environment.parse(template)
            _add_unknown_filters(environment, tree)
            self._template = environment.from_string(template)
            self._uses_tools = "tools" in find_undeclared_variables(tree)
        except (jinja2.TemplateSyntaxError, SyntaxError, ValueError, RecursionError) as exc:
            self._fault = _short(exc)
            log.warning("the model's chat template does not compile: %s", self._fault)

    @property
    def fault(self) -> str | None:
        """The reason why the template does not compile, with its line; None if it does."""
        return self._fault

    @property
    def can_chat(self) -> bool:
        """True if there is a template that compiles."""
        return self._template is not None

    @property
    def uses_tools(self) -> bool:
        """True if the template writes the list of tools."""
        return self._uses_tools

    @cached_property
    def switches_thoughts(self) -> bool:
        """True if the template writes another prompt where thoughts are switched off."""
        messages = [{"role": "user", "content": "A"}]
        on, off = (
            self._try({"messages": messages, **thinking_options(each, _SOME_THOUGHT)})
            for each in (True, False)
        )
        return on != off

    @property
    def writes_calls(self) -> bool:
        """True if the template writes the tool calls of earlier turns, and their results."""
        return self._history.writes_calls

    def prepare(self) -> None:
        """Find out, by trials of some milliseconds, what the first chat would have to wait for."""
        if self.can_chat:
            self._history.prepare()
            _ = self._rules, self.switches_thoughts

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        options: Mapping[str, Any],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        ending: Ending = "turn",
        reuse_points: bool = False,
    ) -> Rendered:
        """Return the prompt for `messages`, with its reuse points if `reuse_points` is true.

        Messages that the template would refuse or drop are brought into a form that it accepts.
        `options` are further variables of the template; `tools` and the calls in `messages` are as
        OpenAI writes them. Reuse points cost further renderings. Raises InvalidRequest if the model
        has no template or its template refuses the messages in every form, and GenerationFailed if
        the template is broken.
        """
        template = self._usable()
        for name in options:
            if name in self._given or name == "messages" or name in template.environment.globals:
                raise InvalidRequest(
                    f"{_OPTIONS}.{name} cannot be set: the worker gives this variable itself.",
                    param=f"{_OPTIONS}.{name}",
                )
        variables = {
            **self._given,
            **options,
            "tools": [described(tool) for tool in tools] or None,
            "add_generation_prompt": ending != "bare",
        }
        if ending == "inside" and any(map(messages[-1].get, ("content", "reasoning_content"))):
            chat = self._begun(messages, variables)
            messages = messages[:-1]
        else:
            if ending == "inside":  # in an empty message
                messages = messages[:-1] or messages
            chat = self._written(messages, variables)
        if not reuse_points:
            return chat
        variables["messages"] = self._history.rewrite(messages)
        return replace(chat, reuse_points=self._reuse_points.find(chat.text, variables))

    def _begun(
        self, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]
    ) -> Rendered:
        """Return the prompt that ends where the text of the last message does."""
        *before, last = messages
        field = "content" if last.get("content") else "reasoning_content"
        said = str(last[field])
        if not _opens_thought(said):
            marked = [*before, {**last, field: said + _GOES_ON}]
            with suppress(InvalidRequest):
                whole = self._written(marked, {**variables, "add_generation_prompt": False})
                text, mark, _ = whole.text.rpartition(_GOES_ON)
                if mark:
                    return replace(whole, text=text, within=_CHANNELS[field])
        opened = self._written(before, variables)
        if opened.thinking and (mark := _opens_thought(said)):
            said = said.lstrip().removeprefix(mark)  # it's in the prompt already
        thought = opened.thinking or bool(_opens_thought(said))
        return replace(opened, text=opened.text + said, within="thought" if thought else "content")

    def _written(
        self, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]
    ) -> Rendered:
        """Return the chat in the first form that the template accepts."""
        template, refusal = self._usable(), None
        messages = self._history.rewrite(messages)
        for rules, form in self._forms(messages):
            try:
                text = _bounded(template, {**variables, "messages": form})
            except _TEMPLATE_FAULTS as exc:
                refusal = refusal or exc
            else:
                warned = moves_systems(messages, rules)
                return Rendered(text, warnings=(_FOLDED,) if warned else ())
        raise InvalidRequest(
            f"The model's chat template does not accept these messages: {_short(refusal)}",
            param="messages",
        ) from refusal

    def _forms(
        self, messages: Sequence[Mapping[str, Any]]
    ) -> Iterator[tuple[MessageRules, list[Mapping[str, Any]]]]:
        """Yield the messages in different forms, from what they are to what any template takes."""
        strict = self._rules.strict
        apart = replace(strict, calls_apart=not strict.calls_apart)
        tried: list[list[Mapping[str, Any]]] = []
        for rules in (self._rules, strict, apart, replace(strict, opening_systems="none")):
            if rules.opening_systems == "none" and rules is not self._rules:
                messages = plain_messages(messages, ())
            form = list(normalised(messages, rules))
            if form not in tried:
                yield rules, form
            tried.append(form)

    @cached_property
    def _rules(self) -> MessageRules:
        """What the template takes; everything, if that can't be found out in time."""
        calls = self._history.example
        rules = rules_of(lambda messages: self._try({"messages": messages}), calls=calls)
        if self._trial_left > 0:
            return rules
        log.warning(
            "the model's chat template takes more than %.0f s for some short chats: messages "
            "are given to it as they are",
            _LONGEST_TRIAL,
        )
        return MessageRules()

    def _render(self, variables: Mapping[str, Any]) -> str:
        messages = list(normalised(variables["messages"], self._rules))
        return _bounded(self._usable(), {**variables, "messages": messages})

    def _try(self, variables: Mapping[str, Any]) -> str:
        """Return the text for these variables and the usual ones; "" if they are refused."""
        if self._template is None or self._trial_left <= 0:
            return ""
        began = time.monotonic()
        try:
            with at_most(self._trial_left):
                return _bounded(self._template, {**self._given, **variables})
        except (*_TEMPLATE_FAULTS, InvalidRequest, TimeoutError):
            return ""
        finally:
            self._trial_left -= time.monotonic() - began

    def _usable(self) -> jinja2.Template:
        if self._template is not None:
            return self._template
        if self._fault is not None:
            raise GenerationFailed(
                f"The model's chat template is broken: {self._fault}. "
                "Send a `prompt` (or use /v1/completions), or serve a file with a working template."
            )
        raise InvalidRequest(
            "The model has no chat template, so it cannot answer `messages`. "
            "Send a `prompt`, or use /v1/completions.",
            param="messages",
        )


class _ReusePoints:
    """Finds the reuse points of rendered chats by rendering parts of them.

    It raises nothing, and leaves out the points that it can't find.
    """

    def __init__(self, render: Callable[[Mapping[str, Any]], str]) -> None:
        self._render = render
        self._prefixes: dict[str, str] = {}  # by their variables; the least recently used first

    def find(self, text: str, variables: Mapping[str, Any]) -> tuple[int, ...]:
        """Return offsets into `text`, the rendering of `variables`; none if it is too long."""
        if len(text) > MAX_SEARCHED:
            return ()
        found = set()
        for end_of in (self._end_of_prefix, self._end_of_last_turn):
            # The template may refuse a part of the chat; the sender of the whole should not see
            # that.
            with suppress(*_TEMPLATE_FAULTS, InvalidRequest):
                found.add(end_of(text, variables))
        return tuple(sorted(at for at in found if 0 < at < len(text)))

    def _end_of_last_turn(self, text: str, variables: Mapping[str, Any]) -> int:
        return _shared(text, self._render({**variables, "add_generation_prompt": False}))

    def _end_of_prefix(self, text: str, variables: Mapping[str, Any]) -> int:
        """Return the offset where chats with this system prompt begin to differ; 0 if too early."""
        system = list(takewhile(_is_system, variables["messages"]))
        shortest = max(SHORTEST_PREFIX, sum(map(_length, system)))
        key = repr({**variables, "messages": system})
        prefix = self._prefixes.pop(key, None)
        if prefix is None or not text.startswith(prefix):  # a template may write the date
            prefix = self._prefix(variables, system)
        self._prefixes[key] = prefix
        if len(self._prefixes) > _KEPT_PREFIXES:
            del self._prefixes[next(iter(self._prefixes))]
        end = _shared(text, prefix)
        # Some templates put the system prompt further back: the text before it is too short.
        return end if end >= shortest else 0

    def _prefix(self, variables: Mapping[str, Any], system: Sequence[Mapping[str, Any]]) -> str:
        """Return the text that all chats with these system messages begin with.

        It is what two chats with different questions share: many templates refuse a system message
        alone, or write it into the first question.
        """
        questions = ({"role": "user", "content": word} for word in ("A", "B"))
        one, other = (
            self._render({**variables, "messages": [*system, question]}) for question in questions
        )
        return one[: _shared(one, other)]


def _opens_thought(text: str) -> str:
    """Return the mark of the thought that a text begins with and does not end; "": there's none."""
    text = text.lstrip()
    for mark in _THOUGHT_STARTS:
        if text.startswith(mark) and not any(end in text for end in _THOUGHT_ENDS):
            return mark
    return ""


def _is_system(message: Mapping[str, Any]) -> bool:
    return message.get("role") in ("system", "developer")


def _length(message: Mapping[str, Any]) -> int:
    content = message.get("content")
    return len(content.strip()) if isinstance(content, str) else 0


def _shared(one: str, other: str) -> int:
    """Return the length of the longest common prefix.

    It is found by bisection: a loop over the characters is far slower.
    """
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _bounded(template: jinja2.Template, variables: Mapping[str, Any]) -> str:
    parts: list[str] = []
    length = 0
    for part in template.generate(variables):
        length += len(part)
        if length > MAX_RENDERED:
            raise InvalidRequest(
                f"The chat is longer than {MAX_RENDERED} characters when written with the model's "
                "template. Send fewer or shorter messages.",
                param="messages",
            )
        parts.append(part)
    return "".join(parts)


def _short(exc: BaseException | None) -> str:
    text = str(exc) or type(exc).__name__
    if isinstance(exc, jinja2.TemplateSyntaxError):
        text = f"{exc.message} (line {exc.lineno})"
    return text if len(text) <= _MAX_MESSAGE else text[:_MAX_MESSAGE] + "…"


class _Generation(Extension):
    """A template block that marks the assistant's text for training; its content is rendered."""

    tags = {"generation"}  # noqa: RUF012 - declared so by jinja2

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment(now: Callable[[], datetime]) -> ImmutableSandboxedEnvironment:
    """Return the environment that templates are written for: that of Hugging Face transformers."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols", _Generation],
    )
    environment.filters["tojson"] = _tojson
    environment.filters["format"] = _formatted
    environment.filters["from_json"] = environment.filters["fromjson"] = json.loads
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda format: now().strftime(format)
    # These operators are bounded: they can turn a small input into a huge text or number.
    environment.intercepted_binops = frozenset({"*", "**", "%"})
    environment.binop_table.update({"*": _times, "**": _power, "%": _modulo})
    return environment


def _add_unknown_filters(environment: ImmutableSandboxedEnvironment, tree: nodes.Template) -> None:
    """Let the filters that are unknown here pass their values on, so that no text is lost."""
    used = {each.name for each in tree.find_all(nodes.Filter)}
    unknown = sorted(used.difference(environment.filters))
    if unknown:
        names = ", ".join(unknown)
        log.warning("the model's chat template has filters that are unknown here: %.200s", names)
    environment.filters.update(dict.fromkeys(unknown, _unchanged))


def _unchanged(value: Any, *given: Any, **named: Any) -> Any:
    return value


def _raise_exception(message: object) -> None:
    raise jinja2.TemplateError(str(message))


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Return JSON as transformers writes it.

    jinja2's own filter escapes HTML, which no model was trained on.
    """
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _times(left: Any, right: Any) -> Any:
    for sequence, count in ((left, right), (right, left)):
        if (
            isinstance(sequence, str | list | tuple)
            and isinstance(count, int)
            and len(sequence) * count > MAX_RENDERED
        ):
            raise ValueError(f"a repetition is longer than {MAX_RENDERED}")
    return operator.mul(left, right)


def _formatted(value: object, *given: Any, **named: Any) -> Any:
    return _modulo(str(value), named or given)


def _modulo(left: Any, right: Any) -> Any:
    if isinstance(left, str) and _WIDE.search(left.replace("%%", "")):
        raise ValueError(f"a width is longer than {_MAX_WIDTH} digits, or not written down")
    return operator.mod(left, right)


def _power(left: Any, right: Any) -> Any:
    if isinstance(right, int) and abs(right) > _MAX_EXPONENT:
        raise ValueError(f"an exponent is larger than {_MAX_EXPONENT}")
    return operator.pow(left, right)
