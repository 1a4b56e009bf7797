"""Patterns of JavaScript and Python, rewritten for finite automata."""

from __future__ import annotations

import json
import re

import pytest

from gguf_worker.engine.drawing.grammars.translation import as_llguidance
from gguf_worker.generation import Grammar
from gguf_worker.schemas.patterns import MOST_CHARACTERS, rewritten
from tests.schemas.random_answers import drawn, matchers

SAME = [
    "^[a-z]+$",
    r"^\d{3}-\d{4}$",
    "^a+?b*?$",
    "^(a|b)+$",
    "^(?:a|b){2,}$",
    "^(?<name>a)$",
    "^(?P<name>a)$",
    "^(?i:ab)$",
    "(?i)^ab$",
    r"^[\w.-]+$",
    r"^[^\s-]{2,4}$",
    r"^\x41\u0042$",
    r"^\/\-\_\ \@\<\>$",
    "^[]a]$|^x$",
    "^[[&&~]{1,3}$",
    "^a{$|^{,3}b$|^}$|^]c$",
    r"^\cA$",
    r"^[\b\t]$",
    r"\Aab\Z",
    "^$",
    "",
    "b+",
    "^b",
    "b$",
    "a.c",
    r"^(\d+W)?$",
    "^(?:^a+$)$",
    "^(?:^a$|^b$)$",
    "^((?:x|a$))$",
    "b$$",
]
LOST = {
    r"\bfoo\b": r"`\b`",
    r"^\Bfoo$": r"`\B`",
    "^(?!admin)[a-z]+$": "a look-ahead",
    "^[a-z]+(?=x)": "a look-ahead",
    "(?<=a)b": "a look-behind",
    "(?<!a)b": "a look-behind",
    "^(?!a(?:b[)]|c)d)x$": "a look-ahead",
    r"^(a|b)\1$": "a back-reference",
    r"^(?<q>a|b)x\k<q>$": "a back-reference",
    r"^(?P<q>a|b)x(?P=q)$": "a back-reference",
    "^(?>ab|a)b$": "an atomic group",
    "^a++b$": "a possessive repetition",
    "a^b": "an inner `^`",
    "a$b": "an inner `$`",
    "^(a$)+$": "an inner `$`",
    "^a|(?=b)c": "a look-ahead",
}
UNREADABLE = [
    "(",
    ")",
    "a(b",
    "[",
    "[a",
    "*a",
    "+",
    "a\\",
    r"\Q*\E",
    r"\uD83D",
    "(?(1)a|b)",
    "(?@a)",
]


def answers(pattern: str, also: tuple[str, ...] = ()) -> list[str]:
    schema = {"type": "string", "allOf": [{"pattern": each} for each in (pattern, *also)]}
    new = matchers(as_llguidance(Grammar("json_schema", json.dumps(schema))))
    return [json.loads(each) for seed in range(20) if (each := drawn(next(new), seed))]


@pytest.mark.parametrize("pattern", SAME)
def test_a_plain_pattern_keeps_its_meaning(pattern: str) -> None:
    new = rewritten(pattern)
    assert new.lost == new.also == ()
    assert new.pattern is not None
    found = answers(new.pattern)
    assert found
    if not re.search(r"\[\]|\(\?<name|\[\[|{,|\\c|\\Z|\\<|\\_", pattern):  # Python reads them so
        assert all(re.search(pattern, each) for each in found)


@pytest.mark.parametrize("pattern", LOST)
def test_what_an_automaton_cannot_do_is_left_out_and_the_rest_enforced(pattern: str) -> None:
    new = rewritten(pattern)
    assert new.lost == (LOST[pattern],)
    assert new.pattern
    assert answers(new.pattern, new.also)


@pytest.mark.parametrize("pattern", LOST)
def test_a_rewritten_pattern_matches_all_that_the_original_does(pattern: str) -> None:
    new = rewritten(pattern)
    original = re.compile(pattern.replace("(?<q>", "(?P<q>").replace(r"\k<q>", "(?P=q)"))
    assert new.pattern is not None
    loose = re.compile(new.pattern.replace("(?s:.*)", "[\\s\\S]*"))
    texts = ["foo", "a foo b", "x", "ab", "b", "aa", "axa", "abb", "admin", "adm", "zx", "c", "aab"]
    assert all(loose.search(text) for text in texts if original.search(text))


def test_leading_look_aheads_become_patterns_of_their_own() -> None:
    new = rewritten(r"^(?=.*[A-Z])(?=.*\d)[A-Za-z\d]{3,8}$")
    assert new.lost == ()
    assert new.pattern == r"^[A-Za-z\d]{3,8}$"
    assert new.also == (r"^(?:.*[A-Z])", r"^(?:.*\d)")
    for text in answers(new.pattern, new.also):
        assert re.search("[A-Z]", text)
        assert re.search(r"\d", text)


@pytest.mark.parametrize("pattern", [*UNREADABLE, "a" * (MOST_CHARACTERS + 1)])
def test_what_cannot_be_read_is_left_out_whole(pattern: str) -> None:
    new = rewritten(pattern)
    assert new.pattern is None
    assert len(new.lost) == 1


def test_zods_email_address_is_enforced_without_its_look_aheads() -> None:
    zods = (
        r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@"
        r"([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$"
    )
    new = rewritten(zods)
    assert new.lost == ()
    assert new.pattern is not None
    for good in ("a@b.co", "a.b+c@d-e.fg.hi", "o'x_@b.co", "a.b.c@b.co"):
        assert re.search(zods, good)
        assert re.search(new.pattern, good)
    for bad in (".a@b.co", "a..b@b.co", "a.@b.co", "a@b", "a'@b.co", "@b.co"):
        assert not re.search(zods, bad)
        assert not re.search(new.pattern, bad)
    assert all(re.search(zods, each) for each in answers(new.pattern))
