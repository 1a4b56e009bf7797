from __future__ import annotations

import itertools
import re
import subprocess
from pathlib import Path

import pytest

from tests.paths import ROOT

LOCKS = ("requirements.txt", "requirements-dev.txt")


@pytest.fixture
def asked(tmp_path: Path) -> list[str]:
    """Run the script with a pip-audit that only notes down its arguments, and return those."""
    builder = tmp_path / "builder"
    builder.mkdir()
    for name in ("audit.sh", "progress.sh"):
        (builder / name).write_text((ROOT / "builder" / name).read_text())
    for lock in LOCKS:
        (builder / lock).write_text("")
    python = tmp_path / ".cache/audit/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$@" >> asked\n')
    python.chmod(0o755)
    done = subprocess.run(["sh", "builder/audit.sh", "python3"], cwd=tmp_path, timeout=20)
    assert done.returncode == 0
    return (tmp_path / "asked").read_text().splitlines()[-1].split()


def values_of(option: str, words: list[str]) -> list[str]:
    return [value for name, value in itertools.pairwise(words) if name == option]


def test_the_audit_asks_about_every_lock(asked: list[str]) -> None:
    assert set(values_of("--requirement", asked)) == {f"builder/{lock}" for lock in LOCKS}
    assert "--strict" in asked
    assert "python3" not in asked


def test_each_advisory_that_the_audit_ignores_is_answered(asked: list[str]) -> None:
    page = (ROOT / "docs/security.md").read_text(encoding="utf-8")
    table = page.partition("<!-- advisories:begin -->")[2].partition("<!-- advisories:end -->")[0]
    answered = re.findall(r"^\| ((?:CVE|GHSA|PYSEC)-[\w-]+)", table, re.MULTILINE)
    assert values_of("--ignore-vuln", asked) == answered
