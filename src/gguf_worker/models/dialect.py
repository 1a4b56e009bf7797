"""How a model wants a chat written down: its own template, rendered in a sandbox.

The template comes from the model's file and the messages from a stranger. Knows no tokens and no
wire format. The text stays as the template made it: a doubled BOS is dropped where tokens are known.
"""

from __future__ import annotations

import json
import logging
import operator
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from gguf_worker.errors import GenerationFailed, InvalidRequest

log = logging.getLogger("gguf_worker.models")

MAX_RENDERED = 16 * 2**20
"""Characters that a rendered chat may have: several times what a million tokens hold."""

_MAX_EXPONENT = 64
_MAX_MESSAGE = 500
_OPTIONS = "chat_template_kwargs"

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


class Dialect:
    """Renders chats for one model.

    `template` is the file's, None where it has none; `bos` and `eos` are the texts of these tokens.
    A template that does not compile is logged once, here; only chats fail then, not plain prompts.
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
        self._given: dict[str, Any] = {
            "bos_token": bos,
            "eos_token": eos,
            "tools": None,
            "documents": None,
            "add_generation_prompt": True,
        }
        if template is None:
            return
        try:
            self._template = _environment(now).from_string(template)
        except (jinja2.TemplateSyntaxError, SyntaxError, ValueError, RecursionError) as exc:
            self._fault = _short(exc)
            log.warning("the model's chat template does not compile: %s", self._fault)

    @property
    def can_chat(self) -> bool:
        return self._template is not None

    def render(self, messages: Sequence[Mapping[str, Any]], options: Mapping[str, Any]) -> str:
        """The prompt text for `messages`, up to where the assistant's answer begins.

        `options` are further variables of the template. Raises InvalidRequest when the model has
        no template or its template refuses what it was given, GenerationFailed when it is broken.
        """
        template = self._usable()
        for name in options:
            if name in self._given or name == "messages" or name in template.environment.globals:
                raise InvalidRequest(
                    f"{_OPTIONS}.{name} cannot be set: the worker gives this variable itself.",
                    param=f"{_OPTIONS}.{name}",
                )
        variables = {**self._given, **options, "messages": list(messages)}
        try:
            return _bounded(template, variables)
        except _TEMPLATE_FAULTS as exc:
            raise InvalidRequest(
                f"The model's chat template does not accept these messages: {_short(exc)}",
                param="messages",
            ) from exc

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


def _short(exc: BaseException) -> str:
    text = str(exc) or type(exc).__name__
    if isinstance(exc, jinja2.TemplateSyntaxError):
        text = f"{exc.message} (line {exc.lineno})"
    return text if len(text) <= _MAX_MESSAGE else text[:_MAX_MESSAGE] + "…"


class _Generation(Extension):
    """`{% generation %}` marks the assistant's words for training; here its content just passes."""

    tags = {"generation"}  # noqa: RUF012 - declared so by jinja2

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment(now: Callable[[], datetime]) -> ImmutableSandboxedEnvironment:
    """The environment that model templates are written for: that of Hugging Face transformers."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols", _Generation],
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda format: now().strftime(format)
    # A number must not become a text of that length: these two grow faster than their input.
    environment.intercepted_binops = frozenset({"*", "**"})
    environment.binop_table.update({"*": _times, "**": _power})
    return environment


def _raise_exception(message: object) -> None:
    raise jinja2.TemplateError(str(message))


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As transformers has it; jinja2's own escapes HTML, which no model was trained on."""
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


def _power(left: Any, right: Any) -> Any:
    if isinstance(right, int) and abs(right) > _MAX_EXPONENT:
        raise ValueError(f"an exponent is larger than {_MAX_EXPONENT}")
    return operator.pow(left, right)
