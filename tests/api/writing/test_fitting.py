"""Texts cut into parts that fit an item of a stream."""

from __future__ import annotations

from gguf_worker.api.writing import LARGEST_TEXT, cut_text


def test_a_text_is_cut_where_it_is_too_long() -> None:
    assert list(cut_text("")) == []
    assert list(cut_text("ab")) == ["ab"]
    assert [len(part) for part in cut_text("🦙" * (LARGEST_TEXT + 1))] == [LARGEST_TEXT, 1]
