from __future__ import annotations

import base64
from typing import Any

import pytest

from gguf_worker.api.reading import Placeholders, readable_text, text_of_file, titled
from gguf_worker.api.reading.bounds import MAX_NAME, MAX_WARNINGS


def test_each_kind_is_one_warning_with_its_count() -> None:
    placeholders = Placeholders()
    assert placeholders.text("image") == "[image]"
    assert placeholders.text("image", {"alt": "sea"}) == '[image: {"alt":"sea"}]'
    placeholders.left_out("web_search")
    assert placeholders.warnings() == [
        "2 parts of the kind 'image' were replaced by a placeholder",
        "one part of the kind 'web_search' was left out",
    ]
    assert Placeholders().warnings() == []


def test_warnings_and_their_words_are_bounded() -> None:
    placeholders = Placeholders()
    for number in range(MAX_WARNINGS + 5):
        placeholders.left_out(f"{number}" + "x" * 1000)
    *said, last = placeholders.warnings()
    assert len(said) == MAX_WARNINGS
    assert all(len(each) < MAX_NAME + 60 for each in said)
    assert last == "5 more parts were not read as sent"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        ("", ""),
        ({}, ""),
        ([], ""),
        ("plain", "plain"),
        ("a b " * 1000, "a b " * 1000),
        ("data:image/png;base64,iVBO", ""),
        ("iVBORw0KGgo" * 100, ""),
        ('{"a":"' + "b" * 2000 + '"}', '{"a":"' + "b" * 2000 + '"}'),
        ({"type": "x", "id": "1", "encrypted_content": "g", "url": "u", "no": None}, '{"url":"u"}'),
        ({"action": {"type": "search", "id": "1"}}, '{"action":{"type":"search"}}'),
        ([{"type": "logs", "logs": "1"}, "iVBORw0KGgo" * 100], '[{"type":"logs","logs":"1"}]'),
        (5, "5"),
        (False, "false"),
    ],
)
def test_a_reader_sees_what_is_text(value: Any, text: str) -> None:
    assert readable_text(value) == text


SEA = base64.b64encode("Sea 🌊".encode()).decode()


@pytest.mark.parametrize(
    ("data", "kind", "text"),
    [
        (SEA, "text/plain", "Sea 🌊"),
        (SEA, "Text/Markdown; charset=utf-8", "Sea 🌊"),
        (SEA, "application/json", "Sea 🌊"),
        (SEA, "application/ld+json", "Sea 🌊"),
        (f"data:text/csv;base64,{SEA}", None, "Sea 🌊"),
        (SEA, "application/pdf", None),
        (f"data:application/pdf;base64,{SEA}", "text/plain", None),
        (base64.b64encode(b"\xff\xfe").decode(), "text/plain", None),
        ("no base64 at all", "text/plain", None),
        ("data:text/plain", None, None),
        (None, "text/plain", None),
        (SEA, None, None),
        (SEA, 5, None),
    ],
)
def test_a_file_of_text_is_read(data: Any, kind: Any, text: str | None) -> None:
    assert text_of_file(data, kind) == text


@pytest.mark.parametrize(
    ("titles", "text"), [((), "a"), ((None, "", 5), "a"), (("T", None, "C"), "T\nC\na")]
)
def test_titles_are_lines_before_the_text(titles: tuple[Any, ...], text: str) -> None:
    assert titled("a", *titles) == text
