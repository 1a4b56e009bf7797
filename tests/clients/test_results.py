"""What drives came to is kept until another run, or another version, says otherwise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.clients.results import Results


def report(
    client: str, feature: str, passed: bool, *, version: str = "1", when: Literal["call"] = "call"
) -> pytest.TestReport:
    place = ("tests/clients/test_some.py", 1, "test")
    noted: list[tuple[str, object]] = [
        ("table", "Agents"),
        ("client", client),
        ("version", version),
        ("feature", feature),
    ]
    outcome: Any = "passed" if passed else "failed"
    return pytest.TestReport("id", place, {}, outcome, None, when, user_properties=noted)


def written(folder: Path, *reports: pytest.TestReport) -> dict[tuple[str, str, str], bool]:
    """Return what is kept after a run with these reports."""
    results = Results(folder)
    for each in reports:
        results.note(each)
    results.write()
    rows = json.loads((folder / "some.json").read_text("utf-8"))
    return {(row["client"], row["version"], row["feature"]): row["passed"] for row in rows}


def test_a_feature_is_as_good_as_the_worst_of_its_tests(tmp_path: Path) -> None:
    kept = written(tmp_path, report("a", "tools", False), report("a", "tools", True))
    assert kept == {("a", "1", "tools"): False}


def test_a_part_of_the_drives_leaves_the_rest_as_it_was(tmp_path: Path) -> None:
    written(tmp_path, report("a", "text", True), report("b", "text", False))
    kept = written(tmp_path, report("b", "text", True))
    assert kept == {("a", "1", "text"): True, ("b", "1", "text"): True}


def test_what_another_version_came_to_is_dropped(tmp_path: Path) -> None:
    written(tmp_path, report("a", "text", True), report("a", "tools", True))
    kept = written(tmp_path, report("a", "text", True, version="2"))
    assert kept == {("a", "2", "text"): True}


def test_a_run_without_drives_writes_nothing(tmp_path: Path) -> None:
    Results(tmp_path / "new").write()
    assert not (tmp_path / "new").exists()
