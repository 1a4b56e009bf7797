"""What the drives of clients came to, kept as JSON for the tables in docs/clients.md.

A test that records the properties `table`, `client`, `version` and `feature` counts; a feature is
as good as the worst of its tests.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "results"
NAMES = ("table", "client", "version", "feature")


class Results:
    """Collects the outcomes of a run, by the module that the tests are in."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._folder = folder
        self._found: dict[str, dict[tuple[str, ...], bool]] = {}

    def note(self, report: pytest.TestReport) -> None:
        """Take a test's report, if it is of a drive and of its end."""
        noted = dict(report.user_properties)
        if not all(name in noted for name in NAMES) or not (report.when == "call" or report.failed):
            return
        module = Path(report.location[0]).stem.removeprefix("test_")
        key = tuple(str(noted[name]) for name in NAMES)
        found = self._found.setdefault(module, {})
        found[key] = found.get(key, True) and report.passed

    def write(self) -> None:
        """Write a file for each module; what another version came to is left out."""
        for module, found in self._found.items():
            path = self._folder / f"{module}.json"
            now = {(table, client): version for table, client, version, _ in found}
            rows = [row for row in _read(path) if _still_holds(row, now)]
            known = {tuple(row[name] for name in NAMES): row for row in rows}
            for key, passed in found.items():
                known[key] = {**dict(zip(NAMES, key, strict=True)), "passed": passed}
            self._folder.mkdir(exist_ok=True)
            ordered = [known[key] for key in sorted(known)]
            path.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")


def _read(path: Path) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = json.loads(path.read_text("utf-8")) if path.exists() else []
    return rows


def _still_holds(row: dict[str, object], now: dict[tuple[str, str], str]) -> bool:
    """Tell whether a row of an earlier run is of the version that was run now, or of another
    client."""
    version = now.get((str(row["table"]), str(row["client"])))
    return version in (None, row["version"])
