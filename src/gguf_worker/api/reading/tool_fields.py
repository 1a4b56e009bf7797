"""The tools that a caller lets the model call, and whether one has to be called.

A tool is a function with a schema, or a custom one that takes a text. Tools that only another
server has are left out, with a warning. How a model writes a call is not known here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)

from gguf_worker.api.reading.bounds import (
    MAX_NAME,
    MAX_OPTIONS,
    MAX_TOOL_BYTES,
    MAX_TOOLS,
    MAX_WARNINGS,
)
from gguf_worker.api.reading.strict_model import (
    StrictModel,
    document_with_nulls,
    field_fault,
    small,
)
from gguf_worker.errors import InvalidRequest
from gguf_worker.generation import Grammar
from gguf_worker.providers import TEXT_PARAMETER, ToolChoice, text_parameters
from gguf_worker.schemas import translated_arguments

ToolName = Annotated[
    str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]+$")
]
"""A tool's name; what a model cannot write is rewritten for it, and back in the answer."""

_Description = Annotated[str, StringConstraints(max_length=MAX_OPTIONS)]
_MODES: Mapping[str, Literal["auto", "none", "required"]] = {
    "auto": "auto",
    "none": "none",
    "required": "required",
    "any": "required",  # Mistral's and Anthropic's word
}
_NAMING = ("function", "custom", "tool")


class ToolPart(StrictModel):
    """A part of what is sent about tools; its null fields count as not sent."""

    model_config = ConfigDict(json_schema_extra=document_with_nulls)

    @model_validator(mode="before")
    @classmethod
    def _sent(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        sent = {name: each for name, each in value.items() if each is not None}
        return cls._nested(sent)

    @classmethod
    def _nested(cls, sent: dict[str, Any]) -> dict[str, Any]:
        """Return the fields where a chat has them; some dialects have them elsewhere."""
        return sent


class OfferedFunction(ToolPart):
    name: ToolName
    description: _Description | None = None
    parameters: Annotated[dict[str, Any], AfterValidator(small)] | None = None
    strict: bool | None = None


class TextGrammar(ToolPart):
    syntax: Literal["lark", "regex"]
    definition: Annotated[str, StringConstraints(min_length=1, max_length=Grammar.MOST_CHARACTERS)]


class TextInputFormat(ToolPart):
    type: Literal["text", "grammar"] = "text"
    grammar: TextGrammar | None = Field(default=None, validate_default=True)

    @classmethod
    def _nested(cls, sent: dict[str, Any]) -> dict[str, Any]:
        flat = "definition" in sent and "grammar" not in sent  # as on /v1/responses
        return {**sent, "grammar": sent} if flat else sent

    @field_validator("grammar")
    @classmethod
    def _given(cls, value: TextGrammar | None, info: ValidationInfo) -> TextGrammar | None:
        if value is None and info.data.get("type") == "grammar":
            raise field_fault("is missing")
        return value


class OfferedText(ToolPart):
    """A custom tool, which takes a text."""

    name: ToolName
    description: _Description | None = None
    format: TextInputFormat | None = None

    @property
    def is_only_described(self) -> bool:
        """True if its text has to match a grammar that a call cannot be held to."""
        return self._grammar is not None and self._grammar.syntax == "lark"

    @property
    def regex(self) -> str | None:
        """The regular expression that a call's text is held to."""
        grammar = self._grammar
        return grammar.definition if grammar is not None and grammar.syntax == "regex" else None

    @property
    def _grammar(self) -> TextGrammar | None:
        return self.format.grammar if self.format is not None else None


class OfferedTool(ToolPart):
    """A tool of a kind that is known here, or of one that is left out."""

    type: str = "function"
    function: OfferedFunction | None = Field(default=None, validate_default=True)
    custom: OfferedText | None = Field(default=None, validate_default=True)

    @classmethod
    def _nested(cls, sent: dict[str, Any]) -> dict[str, Any]:
        kind = sent.setdefault("type", "custom" if "custom" in sent else "function")
        if kind not in ("function", "custom"):
            return {"type": kind}
        if kind not in sent and "name" in sent:  # as on /v1/responses
            return {"type": kind, kind: sent}
        return sent

    @field_validator("function", "custom")
    @classmethod
    def _given(cls, value: Any, info: ValidationInfo) -> Any:
        if value is None and info.data.get("type") == info.field_name:
            raise field_fault("is missing")
        return value

    @property
    def name(self) -> str | None:
        """The name of the tool; None: it is left out."""
        given = {"function": self.function, "custom": self.custom}.get(self.type)
        return given.name if given is not None else None


class NamedFunction(ToolPart):
    name: ToolName


class ChosenTool(ToolPart):
    """A tool by its kind and name, in the forms of all dialects, or the tools that are allowed."""

    type: str = "function"
    name: ToolName | None = None
    function: NamedFunction | None = None
    custom: NamedFunction | None = None
    allowed_tools: AllowedTools | None = None

    @classmethod
    def _nested(cls, sent: dict[str, Any]) -> dict[str, Any]:
        if sent.get("type") == "allowed_tools":
            return {"type": "allowed_tools", "allowed_tools": sent.get("allowed_tools", sent)}
        return sent

    @property
    def named(self) -> str | None:
        """The name of the chosen tool, if one is chosen."""
        nested = self.function or self.custom
        return nested.name if nested is not None else self.name


class AllowedTools(ToolPart):
    """OpenAI's allowed tools: all are shown to the model, and only these may be called."""

    mode: Literal["auto", "required"] = "auto"
    tools: Annotated[list[ChosenTool], Field(max_length=MAX_TOOLS)] = Field(default=[])

    def names(self) -> tuple[str, ...]:
        """Return the names of those that can be called here."""
        named = [tool.named for tool in self.tools if tool.type in _NAMING]
        return tuple(dict.fromkeys(name for name in named if name is not None))


def _bounded(tools: list[OfferedTool]) -> list[OfferedTool]:
    sent = [tool.model_dump(exclude_none=True) for tool in tools]
    if len(msgspec.json.encode(sent)) > MAX_TOOL_BYTES:
        raise field_fault(f"is larger than {MAX_TOOL_BYTES} bytes in all")
    return tools


class _CallableTool(NamedTuple):
    """A tool and its parameters. If it `holds`, a call that is not demanded is held to them too.

    `strict_field`: the caller's field of parameters that have to be followed whole.
    """

    name: str
    parameters: dict[str, Any] | None
    holds: bool
    strict_field: str | None = None


class ToolFields(StrictModel):
    """The fields of a body that are about tools. The last two are OpenAI's old names."""

    tools: Annotated[list[OfferedTool], Field(max_length=MAX_TOOLS), AfterValidator(_bounded)] = (
        Field(default=[])
    )
    tool_choice: Literal["none", "auto", "required", "any"] | ChosenTool = "auto"
    parallel_tool_calls: bool = True
    functions: Annotated[list[OfferedFunction], Field(max_length=MAX_TOOLS)] = Field(default=[])
    function_call: Literal["none", "auto"] | NamedFunction = "auto"

    def offered(self) -> tuple[dict[str, Any], ...]:
        """Return the tools as OpenAI writes them, with no field that was not sent."""
        sent = [
            tool.model_dump(exclude_none=True, include={"type", tool.type})
            for tool in self.tools
            if tool.name is not None
        ]
        old = [
            {"type": "function", "function": function.model_dump(exclude_none=True)}
            for function in self.functions
        ]
        # By their JSON: to compare each with all before it takes too long for many large ones.
        kept: dict[bytes, dict[str, Any]] = {}
        for each in [*sent, *old]:
            kept.setdefault(msgspec.json.encode(each, order="sorted"), each)
        return tuple(kept.values())

    def parallel(self) -> bool:
        """Tell if an answer may have several calls; the old form has a place for one."""
        return self.parallel_tool_calls and not self.functions

    def loosened(self, choice: ToolChoice) -> list[str]:
        """Return warnings of what calls that are held to their tools are not held to.

        Raises InvalidRequest if that is said by a tool whose schema is `strict`.
        """
        warnings: list[str] = []
        held = self._held(choice)
        results = translated_arguments(each.parameters for each in held)
        for each, result in zip(held, results, strict=True):
            relaxed = result.relaxed
            if relaxed.grave and each.strict_field is not None:
                field = each.strict_field
                raise InvalidRequest(
                    f"`{field}` is strict, and calls cannot be held to {relaxed.summary()}. "
                    "Leave that out, or send `strict` as false.",
                    param=field,
                )
            warnings += relaxed.warnings(f"a call of {each.name!r}")
        more = len(warnings) - MAX_WARNINGS
        kept = warnings[:MAX_WARNINGS]
        return [*kept, f"{more} more things that calls are not held to"] if more > 0 else kept

    def _held(self, choice: ToolChoice) -> list[_CallableTool]:
        """Return the tools whose calls are held to their parameters."""
        callable = [each for each in self._tools() if choice.may_call(each.name)]
        demanded = choice.mode == "required" or bool(choice.allowed) or not self.parallel()
        return callable if demanded or any(each.holds for each in callable) else []

    def _tools(self) -> Iterator[_CallableTool]:
        functions = [(f"tools[{at}].function", tool.function) for at, tool in enumerate(self.tools)]
        functions += [(f"functions[{at}]", each) for at, each in enumerate(self.functions)]
        for path, function in functions:
            if function is not None:
                strict = f"{path}.parameters" if function.strict else None
                holds = strict is not None
                yield _CallableTool(function.name, function.parameters, holds, strict)
        for text in (tool.custom for tool in self.tools if tool.custom is not None):
            regex = text.regex
            yield _CallableTool(text.name, text_parameters(regex), holds=regex is not None)

    def choice(self) -> ToolChoice:
        """Return whether a tool is called. Raises InvalidRequest if the tools do not allow it."""
        names = [str(tool[tool["type"]]["name"]) for tool in self.offered()]
        if self.tools and self.functions:
            raise InvalidRequest(
                "`functions` is the old name of `tools`; send one of them.", param="functions"
            )
        known = frozenset(names)
        if len(known) < len(names):
            raise InvalidRequest("`tools` has two tools of one name.", param="tools")
        if self.functions:
            return _choice(self.function_call, known, "function_call")
        return _choice(self.tool_choice, known, "tool_choice")

    def warnings(self) -> Iterator[str]:
        """Yield sentences about the tools that are left out, or not taken as they were sent."""
        kinds = dict.fromkeys(tool.type for tool in self.tools if tool.name is None)
        for kind in list(kinds)[:MAX_WARNINGS]:
            yield f"tools of the type {kind[:MAX_NAME]!r} were left out: nothing here can run them"
        for tool in self.tools:
            if tool.custom is not None and tool.custom.is_only_described:
                yield (
                    f"the model was told the grammar of {tool.custom.name[:MAX_NAME]!r}, but is "
                    "not held to it: only a regular expression can be"
                )
        if len(self.offered()) < sum(tool.name is not None for tool in self.tools):
            yield "a tool that was sent twice counts once"
        chosen = self.tool_choice
        allowed = chosen.allowed_tools if isinstance(chosen, ChosenTool) else None
        if allowed is not None and allowed.tools and not allowed.names():
            yield "no tool is called: `tool_choice` allows only such as nothing here can run"


def _choice(
    chosen: str | ChosenTool | NamedFunction, names: frozenset[str], field: str
) -> ToolChoice:
    """Return the choice among tools of these names, which was sent as `field`."""
    if isinstance(chosen, NamedFunction):
        return _named(chosen.name, names, field)
    if isinstance(chosen, ChosenTool):
        if chosen.allowed_tools is not None:
            return _allowed(chosen.allowed_tools, names, field)
        if chosen.named is not None and chosen.type in _NAMING:
            return _named(chosen.named, names, field)
        chosen = chosen.type
    if chosen not in _MODES:
        raise InvalidRequest(
            f"`{field}` should be auto, none, required, or name one of the `tools`.", param=field
        )
    mode = _MODES[chosen]
    if mode == "required" and not names:
        raise InvalidRequest(f"`{field}` is required, and there are no `tools`.", param=field)
    return ToolChoice(mode)


def _named(name: str, names: frozenset[str], field: str) -> ToolChoice:
    _require(name, names, field)
    return ToolChoice("required", name)


def _allowed(allowed: AllowedTools, names: frozenset[str], field: str) -> ToolChoice:
    found = allowed.names()
    for name in found:
        _require(name, names, field)
    if not found and allowed.mode == "required":
        raise InvalidRequest(f"`{field}` requires a tool, and allows none.", param=field)
    return ToolChoice(allowed.mode, allowed=found) if found else ToolChoice("none")


def _require(name: str, names: frozenset[str], field: str) -> None:
    if name not in names:
        raise InvalidRequest(
            f"`{field}` names {name[:MAX_NAME]!r}, which is not among the `tools`.", param=field
        )


def with_tool_calls(messages: Any) -> Any:
    """Return messages in which OpenAI's old calls, and those of custom tools, are calls of tools.

    A result in the old form belongs to the last call before it of the same function. Anything else
    stays as it is, to be checked.
    """
    if not isinstance(messages, list):
        return messages
    ids: dict[str, str] = {}
    return [_with_tool_calls(message, f"call_{at}", ids) for at, message in enumerate(messages)]


def _with_tool_calls(message: Any, id: str, ids: dict[str, str]) -> Any:
    """Return a message; `ids` has the last call of each function, and `id` is that of a new one."""
    if not isinstance(message, Mapping):
        return message
    calls, old, name = (message.get(key) for key in ("tool_calls", "function_call", "name"))
    if isinstance(calls, list) and any(map(_is_custom, calls)):
        return {**message, "tool_calls": [_as_function(call) for call in calls]}
    if isinstance(old, Mapping) and not calls:
        ids[str(old.get("name"))] = id
        rest = {key: each for key, each in message.items() if key != "function_call"}
        return {**rest, "tool_calls": [{"id": id, "type": "function", "function": old}]}
    if message.get("role") == "function":
        return {**message, "role": "tool", "tool_call_id": ids.get(str(name), id)}
    return message


def _is_custom(call: Any) -> bool:
    return isinstance(call, Mapping) and isinstance(call.get("custom"), Mapping)


def _as_function(call: Any) -> Any:
    """Return the call of a custom tool as that of a function with one parameter."""
    if not _is_custom(call):
        return call
    custom = call["custom"]
    arguments = json.dumps({TEXT_PARAMETER: custom.get("input") or ""}, ensure_ascii=False)
    rest = {key: each for key, each in call.items() if key != "custom"}
    function = {"name": custom.get("name"), "arguments": arguments}
    return {**rest, "type": "function", "function": function}
