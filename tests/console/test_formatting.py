from __future__ import annotations

import pytest

from gguf_worker.console import formatting


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (999_999, "1.0 MB"),
        (98_123_456, "98.1 MB"),
        (4_920_000_000, "4.92 GB"),
        (1.5e12, "1.50 TB"),
    ],
)
def test_sizes_are_decimal(number: int, text: str) -> None:
    assert formatting.size(number) == text


@pytest.mark.parametrize(
    ("number", "text"), [(999, "999"), (135_000_000, "135 M"), (8_030_000_000, "8.03 B")]
)
def test_counts_are_short(number: int, text: str) -> None:
    assert formatting.count(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "just now"),
        (59, "just now"),
        (60, "1 minute ago"),
        (7300, "2 hours ago"),
        (90000, "1 day ago"),
    ],
)
def test_ages_are_whole(seconds: float, text: str) -> None:
    assert formatting.age(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.21, "3.2 s"), (61, "1 min 1 s"), (7260, "2 h 1 min")]
)
def test_durations_have_two_units_at_most(seconds: float, text: str) -> None:
    assert formatting.duration(seconds) == text


def test_columns_of_a_table_stand_below_each_other() -> None:
    assert (
        formatting.table(("A", "B"), [("long", "x"), ("s", "yy")])
        == "A      B\nlong   x\ns      yy"
    )


def test_a_strangers_text_cannot_move_the_cursor() -> None:
    assert formatting.plain("a\x1b[2Jb\n") == "a\ufffd[2Jb\ufffd"
    assert formatting.plain_lines("a\nb\x07") == "a\nb\ufffd"
