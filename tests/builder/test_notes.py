from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.paths import ROOT

CHANGELOG = """# Changelog

## [Unreleased]

## [0.2.0] - 2026-11-25

### Added

- Wings.

## [0.1.0]

- Feet.
"""


def notes(tmp_path: Path, version: str) -> subprocess.CompletedProcess[str]:
    changelog = tmp_path / "CHANGELOG.md"
    changelog.write_text(CHANGELOG)
    command = ["sh", str(ROOT / "builder/notes.sh"), version, str(changelog)]
    return subprocess.run(command, capture_output=True, text=True, timeout=20)


def test_the_notes_of_a_version_are_its_section_alone(tmp_path: Path) -> None:
    done = notes(tmp_path, "0.2.0")
    assert (done.returncode, done.stdout.strip()) == (0, "### Added\n\n- Wings.")
    assert notes(tmp_path, "0.1.0").stdout.strip() == "- Feet."


@pytest.mark.parametrize("version", ["Unreleased", "0.3.0", "0.2", ".*"])
def test_a_version_of_which_the_changelog_says_nothing_is_refused(
    tmp_path: Path, version: str
) -> None:
    done = notes(tmp_path, version)
    assert done.returncode == 1
    assert version in done.stderr
