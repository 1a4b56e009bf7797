"""What the soak's observer makes of the lines of the honest readers."""

from __future__ import annotations

import pytest

from tests.soak.watch import STREAMS, Observer


@pytest.fixture
def observer() -> Observer:
    return Observer()


def test_a_silence_counts_between_two_texts_of_one_answer_only(observer: Observer) -> None:
    for line in ("1.0 0 text", "1.5 0 text", "1.6 0 end", "9.0 0 text", "9.1 0 text"):
        observer.read(line)
    assert observer.worst(0.0, 9.1).seconds == pytest.approx(0.5)


def test_a_silence_that_still_lasts_counts_until_now(observer: Observer) -> None:
    observer.read("1.0 0 text")
    assert observer.worst(0.0, 4.0).seconds == pytest.approx(3.0)


def test_seconds_in_which_the_readers_did_not_run_are_nobodys_silence(observer: Observer) -> None:
    for line in ("1.0 0 text", "3.0 0 text", "3.0 -1 lag 1.5"):
        observer.read(line)
    assert observer.worst(0.0, 3.0).seconds == pytest.approx(0.5)


def test_a_silence_of_an_earlier_turn_is_not_the_next_ones(observer: Observer) -> None:
    for line in ("1.0 0 text", "3.0 0 text", "3.1 0 text"):
        observer.read(line)
    assert observer.worst(3.0, 3.1).seconds == pytest.approx(0.1)


def test_an_end_by_an_error_is_kept_with_its_code_and_being_told_to_wait_is_none(
    observer: Observer,
) -> None:
    for line in ("1.0 0 text", "2.0 0 engine_interrupted", "3.0 1 overloaded"):
        observer.read(line)
    (broken,) = observer.broken_since(0.0)
    assert (broken.at, broken.code) == (2.0, "engine_interrupted")
    assert observer.broken_since(2.5) == []


def test_all_have_spoken_only_when_each_of_the_streams_has(observer: Observer) -> None:
    for number in range(STREAMS - 1):
        observer.read(f"2.0 {number} text")
    assert not observer.all_spoke_since(1.0)
    observer.read(f"2.0 {STREAMS - 1} text")
    assert observer.all_spoke_since(1.0)
    assert not observer.all_spoke_since(2.0)
