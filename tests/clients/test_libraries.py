"""The lists of packages that `make clients` installs: whole, exact, and with a driver each."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.clients.libraries import LIBRARIES, LISTS, Library, pins

LOCKS = sorted({LISTS / f"{each.environment}.txt" for each in LIBRARIES})
DRIVERS = sorted(LISTS.glob("drive_*.py"))


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_a_list_pins_every_package_exactly(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    # A package may stand there once for each kind of system.
    assert {line.partition("==")[0] for line in lines} == set(pins(path))
    assert all(line.count("==") and ">=" not in line.partition(";")[0] for line in lines)


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda each: f"{each.package}, {each.api}")
def test_a_library_has_a_version_and_a_driver_with_its_features(library: Library) -> None:
    assert re.match(r"\d+\.", library.version)
    tree = ast.parse(library.script.read_text(encoding="utf-8"))
    (call,) = (
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "drive"
    )
    assert set(library.features) <= {each.arg for each in call.keywords}


def test_every_driver_is_driven() -> None:
    assert {each.script for each in LIBRARIES} == set(DRIVERS)


def test_no_library_stands_there_twice() -> None:
    names = [(each.package, each.api) for each in LIBRARIES]
    assert len(set(names)) == len(names)
