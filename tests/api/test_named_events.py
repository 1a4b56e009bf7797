"""How a told answer is packed into replies."""

from __future__ import annotations

from gguf_worker.api.named_events import cut, joined, written
from gguf_worker.api.render import LARGEST_TEXT, Event


def test_an_event_has_its_name_before_its_data() -> None:
    assert written({"type": "x.y", "a": 1}) == 'event: x.y\ndata: {"type":"x.y","a":1}\n\n'


def test_a_line_separator_in_a_text_ends_no_line() -> None:
    assert "\u2028" not in written({"type": "x", "a": "\u2028"})


def test_events_are_joined_until_they_are_too_large() -> None:
    small, large = "s", "l" * LARGEST_TEXT
    assert list(joined([small, small])) == [Event("ss")]
    assert list(joined([small, large, small, small])) == [Event("s"), Event(large), Event("ss")]
    assert list(joined([])) == []


def test_a_text_is_cut_where_it_is_too_long() -> None:
    assert list(cut("")) == []
    assert list(cut("ab")) == ["ab"]
    assert [len(part) for part in cut("🦙" * (LARGEST_TEXT + 1))] == [LARGEST_TEXT, 1]
