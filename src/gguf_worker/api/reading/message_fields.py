"""The messages of a chat, and the fields that its template reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    ConfigDict,
    FailFast,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
)

from gguf_worker.api.reading.bounds import MAX_CALLS, MAX_MESSAGES, MAX_NAME, MAX_PARTS
from gguf_worker.api.reading.json_schemas import ANY_OBJECT, TEXT, JsonSchema, list_of
from gguf_worker.api.reading.strict_model import StrictModel, field_fault
from gguf_worker.api.reading.thinking_fields import ThoughtFields


class CalledFunction(StrictModel):
    name: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    arguments: str | dict[str, Any] = ""


class CallInHistory(StrictModel):
    """A call that an assistant's turn made. Some clients leave out its type."""

    model_config = ConfigDict(extra="allow")

    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(StrictModel):
    """One turn. Other fields (`name`, `tool_call_id`...) are passed on to the chat template."""

    model_config = ConfigDict(extra="allow")

    DOCUMENTED_AS: ClassVar[Mapping[str, JsonSchema]] = {
        "content": {"anyOf": [TEXT, list_of(ANY_OBJECT), {"type": "null"}]}
    }

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | None = Field(default=None, validate_default=True)
    tool_calls: Annotated[list[CallInHistory], Field(max_length=MAX_CALLS)] = Field(default=[])

    @field_validator("content", mode="before")
    @classmethod
    def _text(cls, value: Any, info: ValidationInfo) -> Any:
        if value is None and info.data.get("role", "assistant") != "assistant":
            raise field_fault("should be text: only an assistant's message may have none")
        return _joined(value) if isinstance(value, list) else value

    def plain(self) -> dict[str, Any]:
        """Return the message as templates read it."""
        more = {
            name: value for name, value in (self.model_extra or {}).items() if value is not None
        }
        # OpenAI renamed the role; templates know the old name.
        role = "system" if self.role == "developer" else self.role
        calls = {"tool_calls": [call.model_dump() for call in self.tool_calls]}
        content = self.content if self.content is not None or self.tool_calls else ""
        return {**more, **(calls if self.tool_calls else {}), "role": role, "content": content}


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


def _joined(parts: list[Any]) -> str:
    """Return the text of content parts, a line each, as other servers join them."""
    if not 1 <= len(parts) <= MAX_PARTS:
        raise field_fault(f"should have 1 to {MAX_PARTS} parts")
    texts = []
    for part in parts:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind != "text":
            name = repr(kind[:MAX_NAME]) if isinstance(kind, str) else "no known type"
            raise field_fault(
                f"has a part of {name}, which is not supported by this version; send text"
            )
        if not isinstance(part.get("text"), str):
            raise field_fault("has a part without `text`")
        texts.append(part["text"])
    return "\n".join(texts)
