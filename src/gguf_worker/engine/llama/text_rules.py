"""Refuses texts that a tokeniser of llama.cpp cannot read: they would end the process, or take
minutes.

Pure: knows the tokens only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from gguf_worker.errors import InvalidRequest

MOST_DIGIT_STEPS = 10**8
"""Sum of the squares of the lengths of runs of digits: three seconds' work for the pre-tokeniser
`superbpe`, which looks at the rest of a run for each digit."""
_DIGITS = re.compile("[0-9]{100,}")
_BYTES = [*range(0xC0), *range(0xC2, 0xF5)]
"""The bytes that UTF-8 has."""


class TextRules:
    """The rules for one vocabulary, of which `pieces` are the bytes of its tokens.

    `falls_back`: a character without a token is read as bytes, which must have tokens then, as in
    SentencePiece's vocabularies. `pre` is the name of the pre-tokeniser.
    """

    def __init__(self, pieces: Iterable[bytes], *, falls_back: bool, pre: str) -> None:
        self._counts_digits = pre == "superbpe"
        self._known: frozenset[str] | None = None  # None: every character has tokens
        known = frozenset(pieces)
        if falls_back and not all(
            bytes([value]) in known or b"<0x%02X>" % value in known for value in _BYTES
        ):
            characters = (piece.decode("utf-8", "ignore") for piece in known)
            self._known = frozenset(each for each in characters if len(each) == 1)

    def check(self, text: str) -> None:
        """Raise InvalidRequest for a text that cannot be read."""
        if self._known is not None and (unknown := set(text) - self._known):
            raise InvalidRequest(
                f"The model's vocabulary has no token for {min(unknown)!r}, and none for its bytes."
            )
        if self._counts_digits:
            steps = sum(len(run) ** 2 for run in _DIGITS.findall(text))
            if steps > MOST_DIGIT_STEPS:
                raise InvalidRequest(
                    "The text has digits in a row that this model's tokeniser would read for "
                    "minutes: some 10,000 are possible. Put something between them."
                )
