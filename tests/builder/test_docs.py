"""The generator of the documents' tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.docs import TABLES, main, metrics_table, settings_table, with_table
from gguf_worker.config import Settings
from gguf_worker.monitoring import Metrics

EMPTY = "# Title\n\n<!-- t:begin -->\nstale words\n<!-- t:end -->\nEnd\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with the documents, their tables empty."""
    for file, (name, _) in TABLES.items():
        path = tmp_path / file
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"# Title\n\n<!-- {name}:begin -->\n<!-- {name}:end -->\nEnd\n")
    return tmp_path


def contents(root: Path) -> list[str]:
    return [(root / file).read_text() for file in TABLES]


def test_a_table_stands_between_its_markers_and_nothing_else_changes() -> None:
    text = with_table(EMPTY, "t", "| a |")
    assert text == "# Title\n\n<!-- t:begin -->\n| a |\n<!-- t:end -->\nEnd\n"
    assert with_table(text, "t", "| a |") == text


@pytest.mark.parametrize("text", ["", EMPTY.replace("<!-- t:end -->", ""), EMPTY * 2])
def test_a_document_without_its_markers_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="<!-- t:begin -->"):
        with_table(text, "t", "")


def test_a_check_changes_nothing_and_fails_where_a_table_is_stale(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(root)
    assert main(["--check"], root) == 1
    assert contents(root) == before
    assert "docs/settings.md is stale" in capsys.readouterr().err


def test_renewed_documents_pass_the_check(root: Path) -> None:
    assert main([], root) == 0
    renewed = contents(root)
    assert "| `MODEL` |" in renewed[0]
    assert "| `gguf_worker_time_to_first_token_seconds` |" in renewed[1]
    assert main(["--check"], root) == 0
    assert main([], root) == 0
    assert contents(root) == renewed


def test_the_settings_table_has_a_described_row_for_every_setting() -> None:
    rows = settings_table().splitlines()[2:]
    assert len(rows) == len(Settings.model_fields)
    for row, name in zip(rows, Settings.model_fields, strict=True):
        variable, default, allowed, text = row.strip("| ").split(" | ")
        assert variable == f"`{name.upper()}`"
        assert default
        assert allowed
        assert len(text) > 10


def test_the_metrics_table_has_a_row_for_every_metric() -> None:
    table = metrics_table()
    assert all(f"| `{metric.name}` |" in table for metric in Metrics().described)
