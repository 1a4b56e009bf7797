"""Texts as token ids and back: the bodies of /tokenize and /detokenize in vLLM's and llama.cpp's words.

Knows no vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import FailFast, Field

from gguf_worker.api.schema import TokenId, read_chat, read_shape
from gguf_worker.api.shapes import Shape
from gguf_worker.errors import InvalidRequest
from gguf_worker.providers import GenerationRequest

MAX_TOKENS = 2**22

_CHAT = ("messages", "tools", "chat_template_kwargs", "reasoning_effort", "enable_thinking")
"""What the text of a chat is made of."""


class TokenizeBody(Shape):
    model: str | None = None
    content: str | None = None
    """llama.cpp's name for the prompt."""
    prompt: str | None = None
    messages: list[Any] | None = None
    add_special: bool | None = None
    add_special_tokens: bool | None = None


class DetokenizeBody(Shape):
    model: str | None = None
    tokens: Annotated[list[TokenId], FailFast(), Field(max_length=MAX_TOKENS)]


@dataclass(frozen=True, slots=True)
class Tokenize:
    """A text, or a chat, whose tokens are wanted. `add_special`: BOS and the like too."""

    model: str | None
    source: str | GenerationRequest
    add_special: bool


@dataclass(frozen=True, slots=True)
class Detokenize:
    model: str | None
    tokens: tuple[int, ...]


def read_tokenize(body: Mapping[str, Any], *, id: str) -> Tokenize:
    """One of `prompt`, `content` and `messages`; a chat as the model's template writes it down."""
    asked = read_shape(body, TokenizeBody)
    given = [each for each in (asked.prompt, asked.content, asked.messages) if each is not None]
    if len(given) != 1:
        raise InvalidRequest("Send one of `prompt`, `content` and `messages`.", param="prompt")
    source: str | GenerationRequest
    if isinstance(given[0], str):
        source = given[0]
    else:
        chat = {name: body[name] for name in _CHAT if name in body}
        source = read_chat(chat, id=id, deadline=None).generation
    special = asked.add_special if asked.add_special_tokens is None else asked.add_special_tokens
    return Tokenize(asked.model, source, special is not False)


def read_detokenize(body: Mapping[str, Any]) -> Detokenize:
    asked = read_shape(body, DetokenizeBody)
    return Detokenize(asked.model, tuple(asked.tokens))


def tokens_object(tokens: Sequence[int], context: int | None) -> dict[str, Any]:
    """vLLM's answer, which has llama.cpp's in it."""
    return {"count": len(tokens), "max_model_len": context, "tokens": list(tokens)}


def text_object(text: str) -> dict[str, Any]:
    """`prompt` is vLLM's word for it, `content` is llama.cpp's."""
    return {"prompt": text, "content": text}
