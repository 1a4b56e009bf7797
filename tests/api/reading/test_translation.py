"""Bodies that became a chat's: their checks, and the way of their faults back."""

from __future__ import annotations

from typing import Any

import pytest

from gguf_worker.api.openai import read_as_chat
from gguf_worker.api.reading import DialectWords, StrictModel, checked_part, refuse_foreign
from gguf_worker.errors import GenerationFailed, InvalidRequest

WORDS = DialectWords(
    ((r"messages(\[.*)?$", "input"), (r"a\[(\d+)\]\.f", r"b[\1]"), (r"a$", "never"))
)


class Inner(StrictModel):
    number: int = 0


class Outer(StrictModel):
    inner: list[Inner]
    name: str = ""


def fault(value: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        checked_part(Outer, value, "x[2]")
    return caught.value


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("messages", "input"),
        ("messages[3].content", "input"),
        ("a[7].f.name", "b[7].name"),
        ("temperature", "temperature"),
    ],
)
def test_a_path_is_translated_to_the_callers_words(path: str, told: str) -> None:
    assert WORDS.path(path) == told


def test_all_paths_of_a_message_are_translated() -> None:
    error = GenerationFailed("`messages` and `a[1].f` differ; see messages.")
    WORDS.translate(error)
    assert (error.message, error.param) == ("`input` and `b[1]` differ; see messages.", None)


def test_a_fault_of_the_translation_is_the_originals() -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_as_chat({"messages": []}, WORDS, id="r", deadline=None)
    assert caught.value.param == "input"
    assert str(caught.value).startswith("`input`")


def test_what_is_sound_is_given_and_null_is_not_sent() -> None:
    value = {"inner": [{"number": 3, "more": 1}], "name": None, "more": 2}
    assert checked_part(Outer, value, "x") == Outer(inner=[Inner(number=3)])


@pytest.mark.parametrize(
    ("value", "param"),
    [
        ("x", "x[2]"),
        (None, "x[2]"),
        ({}, "x[2].inner"),
        ({"inner": "x"}, "x[2].inner"),
        ({"inner": [{}, {"number": "5"}]}, "x[2].inner[1].number"),
        ({"inner": [[]]}, "x[2].inner[0]"),
        ({"inner": [], "name": 5}, "x[2].name"),
    ],
)
def test_a_fault_names_its_place(value: Any, param: str) -> None:
    error = fault(value)
    assert error.param == param
    assert f"`{param}`" in error.message


def test_a_fault_does_not_quote_what_was_sent() -> None:
    error = fault({"inner": [{"number": "secret"}]})
    assert "secret" not in error.message
    assert error.__cause__ is error.__context__ is None


def test_foreign_fields_are_refused_with_advice_unless_they_are_null() -> None:
    refuse_foreign({"a": None, "b": 1}, {"a": "send `b`"})
    with pytest.raises(InvalidRequest, match="`a` has no place here; send `b`") as caught:
        refuse_foreign({"a": 0}, {"a": "send `b`"})
    assert caught.value.param == "a"


def test_an_item_of_a_list_has_the_callers_place() -> None:
    words = DialectWords(((r"tools\[(\d+)\]\.function\.parameters", r"tools[\1].input_schema"),))
    placed = words.with_items("tools", ["tools[2]", "messages[0].content[1].tool"])
    assert placed.path("tools[0].function.parameters.x") == "tools[2].input_schema.x"
    assert placed.path("tools[1].function.parameters") == (
        "messages[0].content[1].tool.input_schema"
    )
    assert placed.path("tools[5].function.parameters") == "tools[5].input_schema"
    assert (placed.path("tools"), placed.path("stop[0]"), placed.path("")) == (
        "tools",
        "stop[0]",
        "",
    )
