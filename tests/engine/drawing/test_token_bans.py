"""The tokens that may not be drawn, where that depends on what was drawn."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from gguf_worker.engine.drawing.token_bans import TokenBans
from gguf_worker.errors import InvalidRequest
from gguf_worker.generation import TokenRules

SIZE = 10
END, NEVER = 8, 9
ALL = set(range(SIZE))


def bans(rules: TokenRules, *words: list[int]) -> TokenBans:
    always, ends = np.array([NEVER], np.int32), np.array([END], np.int32)
    return TokenBans(rules, always=always, ends=ends, words=words, size=SIZE)


def flags(*tokens: int) -> npt.NDArray[np.bool_]:
    marked = np.zeros(SIZE, np.bool_)
    marked[list(tokens)] = True
    return marked


def banned(rules: TokenBans, tokens: list[int], drawn: int) -> set[int]:
    logits = np.zeros(SIZE, np.float32)
    logits[rules.after(tokens, drawn)] = -np.inf
    return set(map(int, np.flatnonzero(np.isneginf(logits))))


def test_nothing_that_ends_an_answer_is_drawn_before_it_is_long_enough() -> None:
    rules = bans(TokenRules(least=2, stops=(3, SIZE + 5)))
    assert banned(rules, [1], 0) == banned(rules, [1, 2], 1) == {3, END, NEVER}
    assert banned(rules, [1, 2, 2], 2) == {NEVER}


@pytest.mark.parametrize("least", [0, 1])
def test_only_allowed_tokens_are_drawn_and_none_that_never_is(least: int) -> None:
    rules = bans(TokenRules(least=least, allowed=(2, END, NEVER)))
    assert banned(rules, [1], 0) == ALL - ({2} if least else {2, END})
    assert banned(rules, [1, 2], 1) == ALL - {2, END}


def test_the_last_token_of_a_bad_word_is_banned_behind_the_others() -> None:
    rules = bans(TokenRules(bad_words=("x",)), [4], [5, 6, 7])
    assert banned(rules, [1], 0) == {4, NEVER}
    assert banned(rules, [1, 5, 6], 2) == {4, 7, NEVER}
    assert banned(rules, [1, 6, 5], 2) == {4, NEVER}


def test_a_bad_word_that_the_prompt_began_may_be_ended() -> None:
    assert banned(bans(TokenRules(), [5, 6]), [5], 0) == {NEVER}
    assert banned(bans(TokenRules(), [5, 6]), [5, 5], 1) == {6, NEVER}


def test_bad_words_are_banned_among_allowed_tokens_too() -> None:
    rules = bans(TokenRules(allowed=(2, 3)), [3])
    assert banned(rules, [1], 0) == ALL - {2}


def test_beside_a_grammar_both_count_unless_nothing_is_left() -> None:
    rules = bans(TokenRules(allowed=(2, 3)))
    forbidden = flags(*(ALL - {3, 4}))
    assert set(np.flatnonzero(rules.beside(forbidden, [1], 0))) == ALL - {3}
    only = flags(*(ALL - {4}))
    assert rules.beside(only, [1], 0) is only
    assert forbidden.sum() == SIZE - 2, "the grammar's own flags are left as they were"


@pytest.mark.parametrize(
    ("rules", "words", "param"),
    [
        (TokenRules(allowed=(NEVER,)), [], "allowed_token_ids"),
        (TokenRules(least=1, allowed=(END,)), [], "min_tokens"),
        (TokenRules(least=1, stops=(3,), allowed=(3, END)), [], "min_tokens"),
        (TokenRules(allowed=(2,)), [[2]], "bad_words"),
        (TokenRules(least=1, allowed=(2, END)), [[2]], "bad_words"),
        (TokenRules(), [[each] for each in range(SIZE)], "bad_words"),
    ],
)
def test_rules_that_leave_no_token_are_refused_by_the_name_of_one(
    rules: TokenRules, words: list[list[int]], param: str
) -> None:
    with pytest.raises(InvalidRequest, match="leave no token") as refused:
        bans(rules, *words)
    assert refused.value.param == param


def test_words_are_given_up_where_nothing_else_is_left_and_then_the_least_length() -> None:
    rules = bans(TokenRules(least=2, allowed=(2, 3, END)), [2, 2], [2, 3])
    assert banned(rules, [1, 2], 1) == ALL - {2, 3}
    rules.add(np.array([2, 3], np.int32))
    assert banned(rules, [1, 2], 1) == ALL - {END}


def test_words_whose_last_tokens_are_all_tokens_are_given_up_without_other_rules() -> None:
    rules = bans(TokenRules(), *[[2, each] for each in range(SIZE)])
    assert banned(rules, [1, 2], 1) == {NEVER}
