"""The tables of docs/clients.md: one line for each client, and what was found, as it was found."""

from __future__ import annotations

from typing import Any

from tests.clients.libraries import LIBRARIES
from tests.clients.table import DOCUMENT, read_rows, table, with_tables


def row(client: str, feature: str, passed: bool = True) -> dict[str, Any]:
    found = {"table": "Agents", "client": client, "version": "1"}
    return {**found, "feature": feature, "passed": passed}


def test_a_client_has_a_line_and_a_feature_a_column() -> None:
    rows = [row("b", "tools"), row("a", "text"), row("b", "text", False)]
    assert table(rows).splitlines() == [
        "| client | version | text | tools |",
        "| --- | --- | --- | --- |",
        "| a | 1 | yes | – |",
        "| b | 1 | **no** | yes |",
    ]


def test_features_that_few_have_stand_in_one_column() -> None:
    rows = [row("a", "text"), row("a", "rerank"), row("b", "models", False), row("b", "text")]
    first, second = table(rows).splitlines()[2:]
    assert first == "| a | 1 | yes | rerank |"
    assert second == "| b | 1 | yes | not models |"


def test_the_document_has_what_the_last_run_found() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert text == with_tables(text, read_rows())


def test_every_library_stands_there_with_the_version_that_is_pinned() -> None:
    found = {(each["client"], each["version"]) for each in read_rows()}
    for library in LIBRARIES:
        assert (f"{library.package}, {library.api} (PyPI)", library.version) in found
