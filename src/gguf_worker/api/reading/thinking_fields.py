"""The fields that switch thoughts on or off, or bound them, as several servers spell them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints

from gguf_worker.api.reading.bounds import MAX_INT32, MAX_NAME
from gguf_worker.api.reading.strict_model import StrictModel, small
from gguf_worker.errors import InvalidRequest

_Named = Iterable[tuple[str, Any]]
"""What was sent under each name."""

Effort = Annotated[str, StringConstraints(max_length=MAX_NAME)]
Budget = Annotated[int, Field(ge=-1, le=MAX_INT32)]
"""A number of tokens; 0: no thought, -1: no limit."""


class ThinkingSwitch(StrictModel):
    """Anthropic's switch, which other servers take in chats too; `adaptive` and `auto` leave it to
    the model."""

    type: Literal["enabled", "disabled", "adaptive", "auto"] | None = None
    budget_tokens: Budget | None = None


class ReasoningSwitch(StrictModel):
    """The switch of OpenAI's responses and of OpenRouter."""

    effort: Effort | None = None
    enabled: bool | None = None
    max_tokens: Budget | None = None
    exclude: bool | None = None


def _switch(value: Any) -> Any:
    return {"type": "enabled" if value else "disabled"} if isinstance(value, bool) else value


class ThoughtFields(StrictModel):
    """The fields about thoughts, among them the variables of the chat template."""

    chat_template_kwargs: Annotated[dict[str, Any], AfterValidator(small)] = Field(default={})
    reasoning_effort: Effort | None = None
    enable_thinking: bool | None = None
    """Qwen's own service takes it beside the messages; Qwen's templates read it from the
    options."""
    thinking: Annotated[
        ThinkingSwitch | None,
        BeforeValidator(_switch, json_schema_input_type=ThinkingSwitch | bool | None),
    ] = None
    reasoning: ReasoningSwitch | None = None
    thinking_budget: Budget | None = None

    def options(self) -> dict[str, Any]:
        """Return the variables for the chat template that were sent. Raises InvalidRequest."""
        efforts = [("reasoning_effort", self.reasoning_effort)]
        if self.reasoning is not None:
            efforts.append(("reasoning.effort", self.reasoning.effort))
        named = {"reasoning_effort": _agreed(efforts), "enable_thinking": self.enable_thinking}
        sent = {name: value for name, value in named.items() if value is not None}
        return sent | self.chat_template_kwargs

    def thinks(self) -> bool | None:
        """Return whether the answer is to begin with a thought; None: that is left to the model.

        The template's own variables go before the other fields. Raises InvalidRequest if fields
        contradict each other.
        """
        for name in ("enable_thinking", "thinking"):
            if isinstance(own := self.chat_template_kwargs.get(name), bool):
                return own
        switch: bool | None = _agreed(self._switches())
        return switch

    def budget(self) -> int | None:
        """Return the most tokens of a thought; None: no limit. Raises InvalidRequest."""
        budget: int | None = _agreed(self._budgets())
        return None if budget is None or budget < 0 else budget

    def warnings(self) -> Iterator[str]:
        """Yield sentences about what has no effect."""
        if self.reasoning is not None and self.reasoning.exclude:
            yield "`reasoning.exclude` was ignored: thoughts are in a field of their own"

    def _switches(self) -> Iterator[tuple[str, bool]]:
        if self.enable_thinking is not None:
            yield "enable_thinking", self.enable_thinking
        if self.thinking is not None and self.thinking.type in ("enabled", "disabled"):
            yield "thinking.type", self.thinking.type == "enabled"
        if self.reasoning is not None and self.reasoning.enabled is not None:
            yield "reasoning.enabled", self.reasoning.enabled
        if self.options().get("reasoning_effort") == "none":
            yield "reasoning_effort", False
        if self.budget() == 0:
            yield next(name for name, budget in self._budgets() if budget == 0), False

    def _budgets(self) -> Iterator[tuple[str, int | None]]:
        yield "thinking_budget", self.thinking_budget
        if self.thinking is not None and self.thinking.type != "disabled":
            yield "thinking.budget_tokens", self.thinking.budget_tokens
        if self.reasoning is not None:
            yield "reasoning.max_tokens", self.reasoning.max_tokens


def _agreed(sent: _Named) -> Any:
    """Return the one value that was sent; None if none was. Raises InvalidRequest if two differ."""
    known = [(name, value) for name, value in sent if value is not None]
    for name, value in known[1:]:
        if value != known[0][1]:
            raise InvalidRequest(
                f"`{known[0][0]}` and `{name}` contradict each other; send one of them.",
                param=name,
            )
    return known[0][1] if known else None
