"""Sentences about what an answer is not held to: few, short, in the author's words."""

from __future__ import annotations

from gguf_worker.schemas import Relaxations


def test_a_thing_is_named_once_with_its_first_places() -> None:
    relaxed = Relaxations()
    for number in range(5):
        relaxed.add("`uniqueItems`", ("properties", f"k{number}"))
        relaxed.add("`uniqueItems`", ("properties", f"k{number}"))
    assert relaxed.warnings("the answer") == (
        "the answer is not held to `uniqueItems` (at properties.k0, properties.k1, properties.k2 "
        "and 2 more places)",
    )


def test_sentences_are_bounded_in_number_and_length() -> None:
    relaxed = Relaxations()
    for number in range(1000):
        relaxed.add(f"`format` '{number} {'x' * 500}\n'", ("y" * 500,) * 5)
    warnings = relaxed.warnings("the answer")
    assert len(warnings) == 16
    assert "985 more" in warnings[-1]
    assert all(len(each) < 300 and "\n" not in each for each in warnings)
    assert len(relaxed.summary()) < 1000


def test_nothing_relaxed_says_nothing() -> None:
    assert not Relaxations()
    assert Relaxations().warnings("the answer") == ()
