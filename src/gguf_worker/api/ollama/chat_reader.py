"""The reader of /api/chat, whose body becomes a chat completion's.

Ollama's calls have no ids: a result belongs to the first call without one that has its tool's name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field

from gguf_worker.api.ollama.shared_fields import OLLAMA_WORDS, OllamaFields
from gguf_worker.api.openai import read_as_chat
from gguf_worker.api.reading import (
    ANY_OBJECT,
    MAX_MESSAGES,
    MAX_PARTS,
    GenerationCall,
    JsonSchema,
    StrictModel,
    checked_part,
    read_model,
)
from gguf_worker.errors import InvalidRequest

LOADING: Mapping[str, Any] = {"messages": [{"role": "user", "content": "."}], "max_tokens": 1}
"""The request of a caller who only wants the model to be in memory: the smallest answer."""

_PLACEHOLDER = "[image]"
_OBJECTS: JsonSchema = {"type": "array", "items": ANY_OBJECT}


class OllamaCalledFunction(StrictModel):
    name: Any = None
    arguments: Any = None


class OllamaToolCall(StrictModel):
    id: str | None = None
    function: OllamaCalledFunction


class OllamaMessage(StrictModel):
    role: Any = None
    content: Any = ""
    thinking: str | None = None
    images: Annotated[list[Any], Field(max_length=MAX_PARTS)] = Field(default=[])
    tool_calls: Annotated[list[Any], Field(max_length=MAX_PARTS)] = Field(default=[])
    tool_name: str | None = None
    name: str | None = None
    """The older name of `tool_name`."""
    tool_call_id: str | None = None


class OllamaChatBody(OllamaFields):
    """The body of /api/chat."""

    DOCUMENTED_AS: ClassVar[Mapping[str, JsonSchema]] = {
        **OllamaFields.DOCUMENTED_AS,
        "messages": {
            **_OBJECTS,
            "examples": [[{"role": "user", "content": "How many days are in a week?"}]],
        },
        "tools": _OBJECTS,
    }

    messages: Annotated[list[Any], Field(max_length=MAX_MESSAGES)] = Field(default=[])
    tools: list[Any] = Field(default=[])


def read_ollama_chat(body: Mapping[str, Any], *, id: str, deadline: float | None) -> GenerationCall:
    """Read the body of /api/chat. Without messages, it only asks for the model."""
    own, unknown = read_model(body, OllamaChatBody)
    chat = own.completion_fields() | own.thought_fields() | {"tools": own.tools}
    warnings = [*unknown, *own.option_warnings()]
    if own.messages:
        turns = _Turns(own.messages)
        chat["messages"] = turns.read()
        warnings += turns.warnings
    else:
        chat |= LOADING
    return read_as_chat(chat, OLLAMA_WORDS, id=id, deadline=deadline, warnings=warnings)


class _Turns:
    """The messages of one chat, read in order."""

    def __init__(self, messages: Sequence[Any]) -> None:
        self._messages = [
            checked_part(OllamaMessage, each, f"messages[{at}]") for at, each in enumerate(messages)
        ]
        users = [at for at, each in enumerate(self._messages) if each.role == "user"]
        self._asked = users[-1] if users else None
        self._calls = 0
        self._open: list[tuple[str, Any]] = []
        """The ids and names of calls that have no result yet."""
        self.warnings: list[str] = []

    def read(self) -> list[dict[str, Any]]:
        """Return the messages as a chat completion has them; None: no such field."""
        return [self._turn(each, at) for at, each in enumerate(self._messages)]

    def _turn(self, message: OllamaMessage, at: int) -> dict[str, Any]:
        turn = {"role": message.role, "content": self._content(message, at)}
        if message.thinking:
            turn["reasoning_content"] = message.thinking
        if message.tool_calls:
            self._open = []
            turn["tool_calls"] = [
                self._call(each, f"messages[{at}].tool_calls[{number}]")
                for number, each in enumerate(message.tool_calls)
            ]
        if message.role == "tool":
            turn |= self._answered(message)
        return turn

    def _content(self, message: OllamaMessage, at: int) -> Any:
        if not message.images:
            return message.content
        if at == self._asked:
            raise InvalidRequest(
                f"`messages[{at}].images`: this model reads text only, and no pictures are "
                "supported by this version; leave them out.",
                param=f"messages[{at}].images",
            )
        self.warnings.append(f"messages[{at}].images were replaced by a placeholder")
        return "\n".join([*[_PLACEHOLDER] * len(message.images), str(message.content)])

    def _call(self, value: Any, path: str) -> dict[str, Any]:
        call = checked_part(OllamaToolCall, value, path)
        function = checked_part(
            OllamaCalledFunction, call.function.model_dump(), f"{path}.function"
        )
        id = call.id or self._new_id()
        self._open.append((id, function.name))
        arguments = {} if function.arguments is None else function.arguments
        return {
            "id": id,
            "type": "function",
            "function": {"name": function.name, "arguments": arguments},
        }

    def _answered(self, message: OllamaMessage) -> dict[str, Any]:
        """Return the id of the call that a result belongs to, and the name of its tool."""
        name = message.tool_name or message.name
        named = next((each for each in self._open if each[1] == name), None)
        found = named or next(iter(self._open), None)
        if message.tool_call_id is not None:
            found = (message.tool_call_id, name)
            self._open = [each for each in self._open if each[0] != found[0]]
        elif found is not None:
            self._open.remove(found)
        id, called = found or (self._new_id(), name)
        name = name or called
        return {"tool_call_id": id} | ({"name": name} if name else {})

    def _new_id(self) -> str:
        self._calls += 1
        return f"call_{self._calls}"
