from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.builder.image.rooted import add_program, add_script, add_tools, is_system

SOURCES = (
    "deb http://mirror.example/debian bookworm main\n"
    "deb http://mirror.example/debian-security bookworm-security main\n"
)


def installed(root: Path, sources: str = "") -> list[str]:
    """Install g++ and make, and return what apt-get was called with."""
    calls = root / "calls"
    add_tools(root / "bin", "sh", "grep")
    add_program(root / "bin/apt-get", f'echo "$*" >>"{calls}"')
    if sources:
        (root / "run/secrets").mkdir(parents=True)
        (root / "run/secrets/apt_sources").write_text(sources)
    script = add_script("install.sh", root, root / "build")
    command = ["sh", str(script), "g++", "make"]
    subprocess.run(command, env={"PATH": str(root / "bin")}, check=True, timeout=30)
    return calls.read_text().splitlines()


@pytest.mark.parametrize(
    ("id", "version", "codename", "lent"),
    [
        ("debian", "12", "bookworm", True),
        ("debian", "13", "trixie", False),
        ("ubuntu", "22.04", "jammy", False),
        ("raspbian", "12", "bookworm", False),
    ],
)
def test_only_a_base_of_that_debian_gets_the_mirrors_of_this_machine(
    tmp_path: Path, id: str, version: str, codename: str, lent: bool
) -> None:
    is_system(tmp_path, id, version, codename)
    update, install = installed(tmp_path, SOURCES)
    assert update.endswith("update")
    assert install.endswith("install --yes --no-install-recommends g++ make")
    for call in (update, install):
        assert ("/run/secrets/apt_sources" in call) == lent


def test_a_system_without_a_version_is_a_base_too(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").write_text("ID=debian\n")
    assert "apt_sources" not in "".join(installed(tmp_path, SOURCES))


def test_without_lent_mirrors_the_base_has_its_own(tmp_path: Path) -> None:
    is_system(tmp_path, "debian", "12", "bookworm")
    assert installed(tmp_path)[0] == "update"
