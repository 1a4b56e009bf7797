"""Events with names, packed into replies."""

from __future__ import annotations

from gguf_worker.api.writing import LARGEST_TEXT, EventText, named_event_text
from gguf_worker.api.writing.named_events import joined


def test_an_event_has_its_name_before_its_data() -> None:
    assert named_event_text({"type": "x.y", "a": 1}) == 'event: x.y\ndata: {"type":"x.y","a":1}\n\n'


def test_a_line_separator_in_a_text_ends_no_line() -> None:
    assert "\u2028" not in named_event_text({"type": "x", "a": "\u2028"})


def test_events_are_joined_until_they_are_too_large() -> None:
    small, large = "s", "l" * LARGEST_TEXT
    assert list(joined([small, small])) == [EventText("ss")]
    assert list(joined([small, large, small, small])) == [
        EventText("s"),
        EventText(large),
        EventText("ss"),
    ]
    assert list(joined([])) == []
