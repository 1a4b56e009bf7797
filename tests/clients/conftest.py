"""Keeps what the drives of clients came to."""

from __future__ import annotations

import pytest

from tests.clients.results import Results

_results = Results()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Take each test's report."""
    _results.note(report)


def pytest_sessionfinish() -> None:
    """Write what was found, if any drive ran."""
    _results.write()
