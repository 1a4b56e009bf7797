"""The text of a server-sent event."""

from __future__ import annotations

import json

import pytest

from gguf_worker.api.writing import server_sent_event


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\r\n"])
def test_no_text_can_break_an_event_into_lines(separator: str) -> None:
    data = {"text": f"ş{separator}b"}
    text = server_sent_event(data)
    assert len(text.splitlines()) == 2
    assert json.loads(text.removeprefix("data: ")) == data


def test_text_of_other_alphabets_is_not_blown_up() -> None:
    assert "日本語" in server_sent_event({"text": "日本語"})
