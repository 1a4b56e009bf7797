from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.builder.machine import Machine

NPM = """
echo "$*" >>"$LOG"
echo >"$6/node_modules/.package-lock.json"
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "node"
    (folder / "node_modules").mkdir(parents=True)
    (folder / "package-lock.json").touch()
    os.utime(folder / "package-lock.json", (0, 0))
    return folder


def test_nodes_packages_are_installed_once(machine: Machine, package: Path, tmp_path: Path) -> None:
    machine.add("npm", NPM)
    log = tmp_path / "log"
    for _ in range(2):
        done = machine.run("node.sh", str(package), LOG=str(log))
        assert done.returncode == 0, done.stderr
    (line,) = log.read_text().splitlines()
    assert line.startswith("ci --ignore-scripts")


def test_root_gets_node_from_debian(machine: Machine, package: Path) -> None:
    machine.log_in(0)
    calls = machine.add_apt()
    assert machine.run("node.sh", str(package)).returncode == 0
    assert calls.read_text().splitlines()[1] == "install --yes --no-install-recommends nodejs npm"


@pytest.mark.parametrize("npm", [None, "exit 1"], ids=["no npm", "no registry"])
def test_without_nodes_packages_the_build_goes_on_with_a_warning(
    machine: Machine, package: Path, npm: str | None
) -> None:
    machine.log_in(1000)
    if npm:
        machine.add("npm", npm)
    done = machine.run("node.sh", str(package))
    assert done.returncode == 0
    assert "tests with Node's client are left out" in done.stderr
