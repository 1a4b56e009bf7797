"""Text to token ids and back: the readers and writers of /tokenize and /detokenize.

The fields have vLLM's and llama.cpp's names. The vocabulary is the provider's business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import FailFast, Field

from gguf_worker.api.openai import read_chat
from gguf_worker.api.reading import (
    ALIASES,
    MAX_TOKENS,
    AnswerFormat,
    ChatFields,
    StrictModel,
    TokenId,
    ToolFields,
    read_model,
)
from gguf_worker.errors import InvalidRequest
from gguf_worker.providers import GenerationRequest, ModelCard, Provider

_CHAT = frozenset[str]().union(
    *(model.model_fields for model in (ChatFields, ToolFields, AnswerFormat))
)
"""The fields that a chat's prompt depends on: a last message is not continued in a format."""


class TokenizeBody(StrictModel):
    """The body of /tokenize."""

    model: str | None = None
    content: str | None = None
    """llama.cpp's name for the prompt."""
    prompt: str | None = None
    messages: list[Any] | None = None
    add_special: bool | None = None
    add_special_tokens: bool | None = None
    with_pieces: bool = False
    """llama.cpp's field: each token is an object of its id and its text."""


class DetokenizeBody(StrictModel):
    """The body of /detokenize."""

    model: str | None = None
    tokens: Annotated[list[TokenId], FailFast(), Field(max_length=MAX_TOKENS)]


@dataclass(frozen=True, slots=True)
class TokenizeCall:
    """A text or a chat to tokenize. `add_special`: with BOS and other special tokens.

    `with_pieces`: with the bytes of each token.
    """

    model: str | None
    source: str | GenerationRequest
    add_special: bool
    with_pieces: bool = False
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenList:
    """The tokens of a text, and the bytes of each if they were asked for."""

    ids: Sequence[int]
    pieces: Sequence[bytes] | None = None


@dataclass(frozen=True, slots=True)
class DetokenizeCall:
    """Token ids to turn into text."""

    model: str | None
    tokens: tuple[int, ...]
    warnings: tuple[str, ...] = ()


def read_tokenize(body: Mapping[str, Any], *, id: str, deadline: float | None) -> TokenizeCall:
    """Read the body of /tokenize: exactly one of `prompt`, `content` and `messages` (a chat)."""
    sent, warnings = read_model(body, TokenizeBody, beside=_CHAT)
    given = [each for each in (sent.prompt, sent.content, sent.messages) if each is not None]
    if len(given) != 1:
        raise InvalidRequest("Send one of `prompt`, `content` and `messages`.", param="prompt")
    source: str | GenerationRequest
    if isinstance(given[0], str):
        source = given[0]
    else:
        chat = {name: each for name, each in body.items() if ALIASES.get(name, name) in _CHAT}
        read = read_chat(chat, id=id, deadline=deadline)
        source = read.request
        warnings += read.warnings
    special = sent.add_special if sent.add_special_tokens is None else sent.add_special_tokens
    return TokenizeCall(sent.model, source, special is not False, sent.with_pieces, warnings)


async def ask_tokens(provider: Provider, call: TokenizeCall) -> TokenList:
    """Return the tokens of the call's text or chat."""
    ids = await provider.tokens(call.source, add_special=call.add_special)
    return TokenList(ids, await provider.pieces(ids) if call.with_pieces else None)


def read_detokenize(body: Mapping[str, Any], *, id: str, deadline: float | None) -> DetokenizeCall:
    """Read the body of /detokenize."""
    sent, warnings = read_model(body, DetokenizeBody)
    return DetokenizeCall(sent.model, tuple(sent.tokens), warnings)


async def write_tokens(tokens: TokenList, call: TokenizeCall, card: ModelCard) -> dict[str, Any]:
    """Return vLLM's answer; its `tokens` field is the whole of llama.cpp's."""
    listed: list[Any] = list(tokens.ids)
    if tokens.pieces is not None:
        pairs = zip(tokens.ids, tokens.pieces, strict=True)
        listed = [{"id": id, "piece": _piece(piece)} for id, piece in pairs]
    return {"count": len(tokens.ids), "max_model_len": card.context, "tokens": listed}


def _piece(piece: bytes) -> str | list[int]:
    """Return a token's text, or, as llama.cpp does, its bytes if they are not whole characters."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return list(piece)


async def write_text(text: str, call: DetokenizeCall, card: ModelCard) -> dict[str, Any]:
    """Return the text under vLLM's name, `prompt`, and llama.cpp's, `content`."""
    return {"prompt": text, "content": text}
