"""Random answers that a schema allows, drawn byte by byte without a model."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLTokenizer

_BYTES = LLTokenizer("byte")

_TOKENS, _END = 262, 261
"""llguidance's vocabulary of bytes has some special tokens, the last of which ends an answer."""
_SHORT = b'"}]e'
"""Bytes that end something outside of texts."""
_LONGER = b",\\ \n\t-.eE"
"""Bytes after which more has to come, or may."""
_EXAMPLES = (
    "https://ab.cd/e a@bc.de 2024-01-02T03:04:05Z P1DT2H 1.2.3.4 ::1 a.b.c "
    "00000000-0000-4000-8000-000000000000 AAA= \U0001f600"
)
"""Texts of usual formats: an answer at random would hardly find their signs."""


def drawn(matcher: Any, seed: int, most: int = 1500) -> str | None:
    """Return a random answer of an llguidance matcher over single bytes; None if it has no end.

    After some bytes the shortest way out is taken.
    """
    chance = random.Random(seed)
    text = bytearray()
    bits = np.zeros(-(-_TOKENS // 32), np.int32)
    hurry = chance.choice((0, 10, 50))
    while len(text) < most:
        matcher.unsafe_compute_mask_ptr(bits.ctypes.data, bits.nbytes)
        assert not matcher.is_error(), matcher.get_error()
        allowed = np.flatnonzero(np.unpackbits(bits.view(np.uint8), bitorder="little")).tolist()
        ends, letters = _END in allowed, [each for each in allowed if each < 256]
        if not letters or (ends and (len(text) > hurry or chance.random() < 0.5)):
            return text.decode() if ends else None
        byte = _next(letters, text, chance, len(text) > hurry)
        assert matcher.consume_token(byte)
        text.append(byte)
        if matcher.is_stopped():
            return text.decode()
    return None


def _next(letters: list[int], text: bytearray, chance: random.Random, hurry: bool) -> int:
    within = (text.count(b'"') - text.count(b'\\"')) % 2 == 1
    outside = _SHORT + (b",0" if text[-1:].isdigit() else b"0")
    if hurry and not within and text[-1:].isdigit() and not set(b",}]") & set(letters):
        return chance.choice(letters)
    for byte in (b'"' if within else outside) if hurry else b"":
        if byte in letters:
            return byte
    for size in (3, 2, 1) if within and chance.random() < 0.8 else ():
        following = sorted(_FOLLOWING.get(bytes(text[-size:]), ()))
        if likely := [each for each in following if each in letters]:
            return chance.choice(likely)
    usual = [each for each in letters if 32 <= each < 127 and not (hurry and each in _LONGER)]
    return chance.choice(usual if usual and chance.random() < 0.9 else letters)


def matchers(grammar: str) -> Iterator[Any]:
    """Yield new matchers of a grammar in llguidance's format, over single bytes."""
    _learn(grammar)
    while True:
        yield LLMatcher(_BYTES, grammar, log_level=0)


_FOLLOWING: dict[bytes, set[int]] = {}
"""The bytes that follow one to three others in the schema and in texts of usual formats."""


def _learn(grammar: str) -> None:
    _FOLLOWING.clear()
    text = f"{grammar} {_EXAMPLES}".encode()
    for size in (1, 2, 3):
        for at in range(len(text) - size):
            _FOLLOWING.setdefault(text[at : at + size], set()).add(text[at + size])
