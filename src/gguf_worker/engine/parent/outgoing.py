"""The messages to the engine: measured, then encoded."""

from __future__ import annotations

import msgspec

from gguf_worker.engine.messages import (
    DetokenizeTokens,
    Embed,
    EngineInfo,
    EngineRequest,
    Submit,
    ToEngine,
    TokenizeText,
)
from gguf_worker.errors import InvalidRequest
from gguf_worker.generation import Sampling

_ENCODER = msgspec.msgpack.Encoder()


def least_size(message: Submit | Embed | TokenizeText | DetokenizeTokens) -> int:
    """Return the least number of bytes that a message takes encoded, without encoding it."""
    match message:
        case Submit():
            return len(message.request.prompt)
        case Embed():
            return len(message.query or "") + sum(map(len, message.texts))
        case TokenizeText():
            return len(message.text)
        case DetokenizeTokens():
            return len(message.tokens)


def encoded(message: ToEngine) -> bytes:
    """Return the bytes of a message. Raises InvalidRequest for a text that is not Unicode."""
    try:
        return _ENCODER.encode(message)
    except UnicodeEncodeError as error:  # JSON can spell half a surrogate pair
        raise InvalidRequest(
            "The request holds half of a surrogate pair, which is no character. "
            "Send whole characters.",
            param=_param(message),
        ) from error


def trial_request(id: int, info: EngineInfo) -> Submit | Embed:
    """Return a request that harms no engine that works: the least that the model can compute."""
    if info.generates:
        sampling = Sampling(temperature=0)
        return Submit(id, EngineRequest([0], sampling, max_tokens=2, ignore_eos=True))
    return Embed(id, ("a",), "a" if info.pooling == "rank" else None)


def _param(message: ToEngine) -> str:
    """Return the name of the API parameter that holds the texts of a message."""
    if not isinstance(message, Embed):
        return "prompt"
    return "input" if message.query is None else "documents"
