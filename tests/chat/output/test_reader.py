from __future__ import annotations

import re
from collections.abc import Iterable

import pytest

from gguf_worker.chat.output.reader import Malformed, Marks, Reader, Reading


def driven(reader: Reader, reading: Reading[str | None], texts: Iterable[str]) -> str | None:
    """What `reading` returns when the texts come one after the other, and then the end."""
    for text in [*texts, None]:
        try:
            next(reading)
        except StopIteration as done:
            return done.value
        if text is None:
            reader.end()
        else:
            reader.give(text)
    try:
        next(reading)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits for more than there is")


@pytest.mark.parametrize("words", [("ab", "abc"), ("abc", "b"), ("<x>", "a<x>")])
def test_no_mark_may_be_a_part_of_another(words: tuple[str, ...]) -> None:
    with pytest.raises(AssertionError):
        Marks(words)


def test_a_text_is_passed_on_up_to_where_a_mark_may_begin() -> None:
    reader, parts = Reader(), []
    reading = reader.until(Marks(("<end>", "[x]")), parts.append)
    next(reading)
    for text, passed in (("ab<e", ["ab"]), ("n", []), ("x<", ["<enx"]), ("<", ["<"])):
        reader.give(text)
        next(reading)
        assert parts == passed
        parts.clear()
    reader.give("end>rest")
    with pytest.raises(StopIteration) as done:
        next(reading)
    assert done.value.value == "<end>"


def test_without_marks_a_text_is_passed_on_at_once() -> None:
    reader, parts = Reader(), []
    assert driven(reader, reader.until(Marks(()), parts.append), ["a<", "b"]) is None
    assert parts == ["a<", "b"]


def test_a_trial_remembers_what_it_read_until_it_is_kept() -> None:
    reader = Reader()
    reader.give("abcd")
    reader.begin("<")
    reader.take(2)
    assert reader.tried == "<ab"
    reader.begin()
    reader.take()
    assert reader.tried == "c"
    reader.keep()
    reader.take()
    assert reader.tried == ""


@pytest.mark.parametrize("cut", [["abcdef"], list("abcdef")])
def test_a_trial_fails_at_its_limit_however_the_text_comes(cut: list[str]) -> None:
    reader = Reader()
    reader.begin("<", 4)
    with pytest.raises(Malformed):
        driven(reader, reader.before("f"), cut)
    assert reader.tried == "<abcd"


def test_a_trial_that_meets_the_end_has_failed() -> None:
    reader = Reader()
    reader.begin()
    with pytest.raises(Malformed):
        driven(reader, reader.before("f"), ["abc"])
    assert reader.tried == "abc"


def test_a_run_of_one_kind_of_character_is_read_over_cuts() -> None:
    reader = Reader()
    assert driven(reader, reader.run(re.compile("[a-c]*")), ["ab", "c", "d"]) == "abc"
    assert driven(reader, reader.run(re.compile("[a-c]*")), []) == ""
    assert driven(reader, reader.rest(), []) == "d"
