"""The messages of a chat, and the fields that its template reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    ConfigDict,
    FailFast,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)

from gguf_worker.api.reading.bounds import MAX_CALLS, MAX_MESSAGES, MAX_NAME, MAX_PARTS
from gguf_worker.api.reading.json_schemas import ANY_OBJECT, TEXT, JsonSchema
from gguf_worker.api.reading.strict_model import StrictModel, document_with_nulls, field_fault
from gguf_worker.api.reading.thinking_fields import ThoughtFields
from gguf_worker.errors import InvalidRequest

Ending = Literal["turn", "inside", "bare"]

_THOUGHTS = ("reasoning_content", "reasoning")
"""Fields of a thought: templates know the first name, some servers write the other."""


class ReplayedModel(StrictModel):
    """A part of a message, which a client replays as another server made it: null is absent."""

    model_config = ConfigDict(json_schema_extra=document_with_nulls)

    @model_validator(mode="before")
    @classmethod
    def _sent(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: each for name, each in value.items() if each is not None}


class CalledFunction(ReplayedModel):
    name: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    arguments: str | dict[str, Any] = ""


class CallInHistory(ReplayedModel):
    """A call that an assistant's turn made. Some clients leave out its type or its id."""

    model_config = ConfigDict(extra="allow")

    DOCUMENTED_AS: ClassVar[Mapping[str, JsonSchema]] = {"type": {"enum": ["function", ""]}}

    type: Literal["function"] = "function"
    function: CalledFunction

    @field_validator("type", mode="before")
    @classmethod
    def _usual(cls, value: Any) -> Any:
        return "function" if value == "" else value

    def plain(self) -> dict[str, Any]:
        """Return the call as templates read it."""
        return _identified(self.model_dump(), "id")


class ChatMessage(ReplayedModel):
    """One turn. Other fields (`name`, `tool_call_id`...) are passed on to the chat template."""

    model_config = ConfigDict(extra="allow")

    DOCUMENTED_AS: ClassVar[Mapping[str, JsonSchema]] = {
        "content": {"anyOf": [TEXT, {"type": "array", "items": ANY_OBJECT}]}
    }

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | None = Field(default=None, validate_default=True)
    """An assistant's may be null, missing or empty, and a tool's result too."""
    tool_calls: Annotated[list[CallInHistory], Field(max_length=MAX_CALLS)] = Field(default=[])

    @field_validator("content", mode="before")
    @classmethod
    def _text(cls, value: Any, info: ValidationInfo) -> Any:
        silent = info.data.get("role", "assistant") in ("assistant", "tool")
        if value is None and not silent:
            raise field_fault("should be text: only an assistant's message may have none")
        return _joined(value, silent) if isinstance(value, list) else value

    def plain(self) -> dict[str, Any]:
        """Return the message as templates read it."""
        more = {
            name: value for name, value in (self.model_extra or {}).items() if value is not None
        }
        # OpenAI renamed the role; templates know the old name.
        role = "system" if self.role == "developer" else self.role
        calls = {"tool_calls": [call.plain() for call in self.tool_calls]}
        content = self.content if self.content is not None or self.tool_calls else ""
        sent = [more.pop(name) for name in _THOUGHTS if name in more]
        thoughts = [each for each in sent if isinstance(each, str)]
        if thoughts:
            more["reasoning_content"] = next(filter(None, thoughts), "")
        more = _identified(more, "tool_call_id")
        return {**more, **(calls if self.tool_calls else {}), "role": role, "content": content}

    @property
    def unread(self) -> Iterator[str]:
        """The names of its fields that cannot be read, and are left out."""
        for name in _THOUGHTS:
            value = (self.model_extra or {}).get(name)
            if value is not None and not isinstance(value, str):
                yield name

    @property
    def may_go_on(self) -> bool:
        """True if an answer may go on from its text."""
        return self.role == "assistant" and not self.tool_calls


class ChatFields(ThoughtFields):
    """The fields of a chat."""

    messages: Annotated[
        list[ChatMessage],
        FailFast(),
        Field(
            min_length=1,
            max_length=MAX_MESSAGES,
            examples=[[{"role": "user", "content": "How many days are in a week?"}]],
        ),
    ]
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None

    def ending(self, held_by: str | None, warnings: list[str]) -> Ending:
        """Return the end of the prompt: a last message of the assistant is continued.

        `held_by`: the field that holds the whole answer to a form, so that it cannot be a rest.
        """
        last = self.messages[-1].may_go_on
        if self.continue_final_message:
            self._require_rest(last, held_by)
            return "inside"
        if last and self.continue_final_message is None and not self.add_generation_prompt:
            if held_by is None:
                return "inside"
            warnings.append(
                f"the last message is the assistant's, and was not continued: `{held_by}` is for "
                "a whole answer"
            )
        return "bare" if self.add_generation_prompt is False else "turn"

    def unread_warnings(self) -> Iterator[str]:
        """Yield a sentence for each field of a message that cannot be read."""
        for name in _THOUGHTS:
            count = sum(name in each.unread for each in self.messages)
            if count:
                yield f"`{name}` of {count} messages was ignored: it is no text"

    def _require_rest(self, last: bool, held_by: str | None) -> None:
        field = "continue_final_message"
        if not last:
            raise InvalidRequest(
                f"`{field}` needs a last message of the assistant, without calls.", param=field
            )
        for other in (held_by, "add_generation_prompt" if self.add_generation_prompt else None):
            if other is not None:
                raise InvalidRequest(
                    f"`{field}` and `{other}` cannot be sent together.", param=field
                )


def _identified(values: dict[str, Any], name: str) -> dict[str, Any]:
    """Return `values` with a text as the id under `name`, or with none."""
    id = values.get(name)
    if isinstance(id, int) and not isinstance(id, bool):
        id = str(id)
    if id and isinstance(id, str):
        return {**values, name: id}
    return {key: value for key, value in values.items() if key != name}


_TEXT_PARTS = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "refusal": "refusal",
}
"""The types of content parts that are text, with the field that has it."""


def _joined(parts: list[Any], silent: bool) -> str:
    """Return the text of content parts, a line each, as other servers join them.

    `silent`: there may be none.
    """
    if not (0 if silent else 1) <= len(parts) <= MAX_PARTS:
        raise field_fault(f"should have 1 to {MAX_PARTS} parts")
    texts = []
    for part in parts:
        kind = part.get("type") if isinstance(part, Mapping) else None
        field = _TEXT_PARTS.get(kind) if isinstance(kind, str) else None
        if field is None:
            name = repr(kind[:MAX_NAME]) if isinstance(kind, str) else "no known type"
            raise field_fault(
                f"has a part of {name}, which is not supported by this version; send text"
            )
        text = part.get(field)
        if text is None and silent:
            continue
        if not isinstance(text, str):
            raise field_fault(f"has a part without `{field}`")
        texts.append(text)
    return "\n".join(texts)
