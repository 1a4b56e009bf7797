"""The soak's rules: what breaks one, and that the complaint names the kind."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.soak.verdict import SLACK, Memory, Row, Silence, complaints, table

MIB = 2**20


def test_quiet_rows_and_flat_memory_break_no_rule() -> None:
    rows = {"texts": Row(sent=4, endings=Counter({"200": 4}), silence=Silence(0.9))}
    assert complaints(rows, [(50 * MIB, 900 * MIB)] * 3) == []


def test_a_lost_engine_breaks_the_rule_of_its_kind() -> None:
    (found,) = complaints({"a": Row(), "b": Row(losses=Counter({"signal": 2}))}, [])
    assert found == "b: 2 engine losses (signal)"


def test_an_honest_stream_that_ends_with_an_error_breaks_it() -> None:
    (found,) = complaints({"a": Row(broken=Counter({"engine_interrupted": 8}))}, [])
    assert found == "a: 8 honest streams ended: engine_interrupted"


@pytest.mark.parametrize(
    ("silent", "beside_honest", "broken"),
    [
        (1.0, None, False),
        (1.1, None, True),
        (1.1, 0.5, True),
        (1.4, 1.0, False),
        (1.6, 1.0, True),
    ],
)
def test_silence_is_measured_against_a_second_and_against_honest_prompts(
    silent: float, beside_honest: float | None, broken: bool
) -> None:
    row = Row()
    row.add_silence(Silence(silent, beside_honest, ("a long text",)))
    found = complaints({"texts": row}, [])
    assert bool(found) == broken
    assert all("texts: " in text and "a long text" in text for text in found)


def test_the_worst_silence_of_a_kind_is_the_one_that_exceeds_most_what_its_turn_allows() -> None:
    row = Row()
    for silence in (Silence(2.0, 2.0), Silence(1.2, 0.1), Silence(0.9)):
        row.add_silence(silence)
    assert row.silence == Silence(1.2, 0.1)


def test_memory_is_compared_between_the_end_of_the_first_third_of_rounds_and_the_last() -> None:
    little: Memory = (50 * MIB, 900 * MIB)
    much: Memory = (50 * MIB, int(900 * MIB * 1.1) + SLACK + MIB)
    assert complaints({}, [little, much, much]) == []
    assert complaints({}, [little, much]) == []
    (found,) = complaints({}, [much, little, much])
    assert "memory: the engine grew from 900 to 999 MiB" in found


def test_the_table_has_a_line_for_each_kind_and_marks_those_that_broke_a_rule() -> None:
    rows = {
        "bodies": Row(sent=3, endings=Counter({"200": 2, "left": 1}), silence=Silence(0.5)),
        "texts": Row(sent=1, endings=Counter({"200": 1}), silence=Silence(3.0, 1.0, others=0.4)),
    }
    lines = table(rows, {"at the end": (50 * MIB, 900 * MIB)}).splitlines()
    assert "| bodies | 3 | 2 200, 1 left | 0.50 |  | 0% |  |  |" in lines
    assert "| texts ! | 1 | 1 200 | 3.00 | 1.00 | 40% |  |  |" in lines
    assert lines[-1] == "| at the end | 50 | 900 |"
