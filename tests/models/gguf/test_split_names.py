from __future__ import annotations

import pytest

from gguf_worker.models.gguf.splits import parts_of, stem_of


def test_any_part_names_all_parts_in_order() -> None:
    expected = tuple(f"a/m-Q8_0-{at:05d}-of-00003.gguf" for at in (1, 2, 3))
    for name in expected:
        assert parts_of(name) == expected


@pytest.mark.parametrize(
    "name",
    [
        "m.gguf",
        "m-00001-of-00002.bin",
        "m-1-of-2.gguf",
        "m-00003-of-00002.gguf",
        "m-00000-of-00002.gguf",
        "m-00001-of-01000.gguf",
        "m-00001-of-99999.gguf",
    ],
)
def test_a_name_that_is_no_parts_stands_for_itself(name: str) -> None:
    assert parts_of(name) == (name,)


def test_the_stem_is_the_name_without_ending_and_number() -> None:
    assert stem_of("a/m-Q8_0-00002-of-00003.gguf") == "a/m-Q8_0"
    assert stem_of("m-Q8_0.gguf") == stem_of("m-Q8_0.GGUF") == "m-Q8_0"
