"""Texts that would end or hold up a tokeniser: they are refused, and no others."""

from __future__ import annotations

import pytest

from gguf_worker.engine.llama.text_rules import TextRules
from gguf_worker.errors import InvalidRequest

pytestmark = pytest.mark.llama  # the room imports llama.cpp

BYTES = [bytes([value]) for value in range(256)]


def test_a_character_of_which_nothing_has_a_token_is_refused() -> None:
    rules = TextRules([b" ", b"a", b"the", "\u00e9".encode()], falls_back=True, pre="")
    rules.check("a a\u00e9")
    with pytest.raises(InvalidRequest, match="no token for 'e'"):
        rules.check("the")


@pytest.mark.parametrize(
    "pieces", [BYTES, [b"<0x%02X>" % value for value in range(256)]], ids=["bytes", "names"]
)
def test_where_bytes_have_tokens_every_text_is_read(pieces: list[bytes]) -> None:
    TextRules(pieces, falls_back=True, pre="").check("\u6d77 \0")


def test_other_tokenisers_know_an_unknown_token() -> None:
    TextRules([b"a"], falls_back=False, pre="").check("b")


def test_runs_of_digits_are_bounded_together_where_they_take_long() -> None:
    rules = TextRules(BYTES, falls_back=False, pre="superbpe")
    for text in ("1" * 10_000, "12,345 " * 200_000, "a" * 100_000, ("1" * 1000 + " ") * 100):
        rules.check(text)
    for text in ("1" * 10_001, ("1" * 1000 + " ") * 101):
        with pytest.raises(InvalidRequest, match="digits in a row"):
            rules.check(text)
    TextRules(BYTES, falls_back=False, pre="gpt-2").check("1" * 100_000)
