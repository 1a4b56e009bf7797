from __future__ import annotations

import re
from collections.abc import Iterable

import pytest

from gguf_worker.chat.output.answer_reader import AnswerReader, Incremental, Malformed, Marks


def driven(
    reader: AnswerReader, reading: Incremental[str | None], texts: Iterable[str]
) -> str | None:
    """Return the result of `reading` when the texts come one after the other, and then the end."""
    results: list[str | None] = []

    def read() -> Incremental[None]:
        results.append((yield from reading))

    steps = read()
    next(steps, None)
    for text in texts:
        if results:
            break
        reader.feed(text)
        next(steps, None)
    if not results:
        reader.end()
        next(steps, None)
    assert results, "it waits for more than there is"
    return results[0]


@pytest.mark.parametrize("words", [("ab", "abc"), ("abc", "b"), ("<x>", "a<x>")])
def test_no_mark_may_be_a_part_of_another(words: tuple[str, ...]) -> None:
    with pytest.raises(AssertionError):
        Marks(words)


def test_a_text_is_passed_on_up_to_where_a_mark_may_begin() -> None:
    reader = AnswerReader()
    parts: list[str] = []
    reading = reader.until(Marks(("<end>", "[x]")), parts.append)
    next(reading)
    for text, passed in (("ab<e", ["ab"]), ("n", []), ("x<", ["<enx"]), ("<", ["<"])):
        reader.feed(text)
        next(reading)
        assert parts == passed
        parts.clear()
    reader.feed("end>rest")
    with pytest.raises(StopIteration) as done:
        next(reading)
    assert done.value.value == "<end>"


def test_without_marks_a_text_is_passed_on_at_once() -> None:
    reader = AnswerReader()
    parts: list[str] = []
    assert driven(reader, reader.until(Marks(()), parts.append), ["a<", "b"]) is None
    assert parts == ["a<", "b"]


def test_a_trial_remembers_the_text_it_read_until_it_ends() -> None:
    reader = AnswerReader()
    reader.feed("abcd")
    reader.begin_trial("<")
    reader.take(2)
    assert reader.tried == "<ab"
    reader.begin_trial()
    reader.take()
    assert reader.tried == "c"
    reader.end_trial()
    reader.take()
    assert reader.tried == ""


@pytest.mark.parametrize("cut", [["abcdef"], list("abcdef")])
def test_a_trial_fails_at_its_limit_however_the_text_comes(cut: list[str]) -> None:
    reader = AnswerReader()
    reader.begin_trial("<", 4)
    with pytest.raises(Malformed):
        driven(reader, reader.before("f"), cut)
    assert reader.tried == "<abcd"


def test_a_trial_that_meets_the_end_has_failed() -> None:
    reader = AnswerReader()
    reader.begin_trial()
    with pytest.raises(Malformed):
        driven(reader, reader.before("f"), ["abc"])
    assert reader.tried == "abc"


def test_a_run_of_one_kind_of_character_is_read_over_cuts() -> None:
    reader = AnswerReader()
    assert driven(reader, reader.run(re.compile("[a-c]*")), ["ab", "c", "d"]) == "abc"
    assert driven(reader, reader.run(re.compile("[a-c]*")), []) == ""
    assert driven(reader, reader.rest(), []) == "d"
