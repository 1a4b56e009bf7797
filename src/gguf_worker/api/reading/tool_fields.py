"""The functions that a caller lets the model call, and whether one has to be called.

How a model writes a call is not known here.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from gguf_worker.api.reading.bounds import MAX_OPTIONS, MAX_TOOLS, MAX_WARNINGS
from gguf_worker.api.reading.strict_model import StrictModel, small
from gguf_worker.errors import InvalidRequest
from gguf_worker.providers import ToolChoice
from gguf_worker.schemas import translated_arguments

ToolName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
LongName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,128}$")]
"""A tool's name by Anthropic's rule."""

LONG_NAMES = "long_names"
"""The key in a validation context that allows a LongName where a ToolName is expected."""


def _name(value: Any, check: ValidatorFunctionWrapHandler, info: ValidationInfo) -> str:
    if info.context and info.context.get(LONG_NAMES):
        return _LONG_NAME.validate_python(value)
    return str(check(value))


_LONG_NAME: TypeAdapter[str] = TypeAdapter(LongName, config=ConfigDict(strict=True))

_NameInContext = Annotated[ToolName, WrapValidator(_name)]


class OfferedFunction(StrictModel):
    name: _NameInContext
    description: Annotated[str, StringConstraints(max_length=MAX_OPTIONS)] | None = None
    parameters: Annotated[dict[str, Any], AfterValidator(small)] | None = None
    strict: bool | None = None


class OfferedTool(StrictModel):
    type: Literal["function"]
    function: OfferedFunction


class FunctionName(StrictModel):
    name: _NameInContext


class NamedToolChoice(StrictModel):
    type: Literal["function"]
    function: FunctionName


class ToolFields(StrictModel):
    """The fields of a body that are about tools."""

    tools: Annotated[list[OfferedTool], Field(max_length=MAX_TOOLS)] = Field(default=[])
    tool_choice: Literal["none", "auto", "required"] | NamedToolChoice = "auto"
    parallel_tool_calls: bool = True

    def offered(self) -> tuple[dict[str, Any], ...]:
        """Return the tools as OpenAI writes them, with no field that was not sent."""
        return tuple(tool.model_dump(exclude_none=True) for tool in self.tools)

    def loosened(self, choice: ToolChoice) -> list[str]:
        """Return warnings of what demanded or strict calls are not held to.

        Raises InvalidRequest if that is said by a tool whose schema is `strict`.
        """
        warnings: list[str] = []
        held = [
            (number, tool.function)
            for number, tool in enumerate(self.tools if choice.mode != "none" else ())
            if tool.function.strict
            or (choice.mode == "required" and choice.name in (None, tool.function.name))
        ]
        results = translated_arguments(function.parameters for _, function in held)
        for (number, function), result in zip(held, results, strict=True):
            relaxed = result.relaxed
            if relaxed.grave and function.strict:
                field = f"tools[{number}].function.parameters"
                raise InvalidRequest(
                    f"`{field}` is strict, and calls cannot be held to {relaxed.summary()}. "
                    "Leave that out, or send `strict` as false.",
                    param=field,
                )
            warnings += relaxed.warnings(f"a call of {function.name!r}")
        more = len(warnings) - MAX_WARNINGS
        kept = warnings[:MAX_WARNINGS]
        return [*kept, f"{more} more things that calls are not held to"] if more > 0 else kept

    def choice(self) -> ToolChoice:
        """Return whether a tool is called. Raises InvalidRequest if the tools do not allow it."""
        names = [tool.function.name for tool in self.tools]
        if len(set(names)) < len(names):
            raise InvalidRequest("`tools` has two functions of one name.", param="tools")
        if isinstance(self.tool_choice, str):
            if self.tool_choice == "required" and not names:
                raise InvalidRequest(
                    "`tool_choice` is required, and there are no `tools`.", param="tool_choice"
                )
            return ToolChoice(self.tool_choice)
        wanted = self.tool_choice.function.name
        if wanted not in names:
            raise InvalidRequest(
                f"`tool_choice` names {wanted!r}, which is not among the `tools`.",
                param="tool_choice",
            )
        return ToolChoice("required", wanted)
