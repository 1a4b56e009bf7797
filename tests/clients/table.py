"""Writes the tables of docs/clients.md from what the drives came to.

python -m tests.clients.table
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from builder.docs import with_table
from tests.clients.results import FOLDER
from tests.paths import ROOT

DOCUMENT = ROOT / "docs/clients.md"
TABLES = {"Agents": "agents", "Client libraries": "libraries"}
"""The tables by the results' name for them, with the name of their markers."""

FEATURES = ("text", "stream", "tools", "structured", "errors", "cancel")
"""The features that have a column of their own; a table's others stand in one column."""

Row = Mapping[str, Any]


def read_rows(folder: Path = FOLDER) -> list[Row]:
    """Return what all drives came to."""
    return [row for path in sorted(folder.glob("*.json")) for row in json.loads(path.read_text())]


def table(rows: Iterable[Row]) -> str:
    """Return rows of one table as Markdown, a line for each client."""
    clients: dict[tuple[str, str], dict[str, bool]] = {}
    for row in rows:
        features = clients.setdefault((row["client"], row["version"]), {})
        features[row["feature"]] = row["passed"]
    known = {feature for features in clients.values() for feature in features}
    columns = [feature for feature in FEATURES if feature in known]
    others = sorted(known.difference(columns))
    head = ["client", "version", *columns, *(["besides"] if others else [])]
    lines = [_line(head), _line(["---"] * len(head))]
    for (client, version), features in sorted(clients.items()):
        cells = [_cell(features.get(column)) for column in columns]
        besides = [each if features[each] else f"not {each}" for each in others if each in features]
        lines.append(_line([client, version, *cells, *([", ".join(besides)] if others else [])]))
    return "\n".join(lines)


def with_tables(text: str, rows: Sequence[Row]) -> str:
    """Return the document's text with its tables made anew."""
    for name, marker in TABLES.items():
        text = with_table(text, marker, table(row for row in rows if row["table"] == name))
    return text


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(passed: bool | None) -> str:
    return "–" if passed is None else "yes" if passed else "**no**"


def main() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(with_tables(text, read_rows()), encoding="utf-8")


if __name__ == "__main__":
    main()
