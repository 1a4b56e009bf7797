"""The settings' table in the README."""

from __future__ import annotations

from gguf_worker.config import Settings, settings_table


def test_the_table_has_a_described_row_for_every_setting() -> None:
    rows = settings_table().splitlines()[2:]
    assert len(rows) == len(Settings.model_fields)
    for row, name in zip(rows, Settings.model_fields, strict=True):
        variable, _default, allowed, text = row.strip("| ").split(" | ")
        assert variable == f"`{name.upper()}`"
        assert allowed
        assert len(text) > 10
