"""The workflows: what they may, what they run, and what a release takes from the changelog."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))

WRITES = {
    ("release.yml", "image"): {"packages", "id-token", "attestations"},
    ("release.yml", "publish"): {"contents"},
}
"""What a job may change; the others change nothing."""


def by_name(path: Path) -> str:
    return path.name


def read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return document


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=by_name)
def test_every_action_is_pinned_by_a_commit_and_says_its_version(workflow: Path) -> None:
    used = re.findall(r"uses: (.*)", workflow.read_text(encoding="utf-8"))
    foreign = [each for each in used if not each.startswith("./")]
    assert foreign
    for each in foreign:
        assert re.fullmatch(r"[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", each), each


def test_an_action_has_one_commit_everywhere() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in WORKFLOWS)
    pins = set(re.findall(r"uses: (\S+)@([0-9a-f]{40})", text))
    assert len(pins) == len({action for action, _ in pins})


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=by_name)
def test_a_job_may_no_more_than_it_needs(workflow: Path) -> None:
    document = read(workflow)
    assert document["permissions"] == {"contents": "read"}
    for name, job in document["jobs"].items():
        rights = job.get("permissions", {})
        writes = {scope for scope, right in rights.items() if right == "write"}
        assert writes == WRITES.get((workflow.name, name), set())
        assert set(rights.values()) <= {"read", "write"}


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=by_name)
def test_every_job_ends_some_time_and_leaves_no_token_in_the_checkout(workflow: Path) -> None:
    for job in read(workflow)["jobs"].values():
        if "uses" in job:
            continue
        assert 1 <= job["timeout-minutes"] <= 180
        for step in job["steps"]:
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=by_name)
def test_no_script_has_a_value_from_outside_written_into_it(workflow: Path) -> None:
    # In a script `${{ }}` is text before it is a value: a branch's name could be a command.
    for job in read(workflow)["jobs"].values():
        for step in job.get("steps", ()):
            assert "${{" not in step.get("run", "")


def test_all_supported_pythons_are_tested() -> None:
    (ci,) = (read(path) for path in WORKFLOWS if path.name == "ci.yml")
    assert ci["jobs"]["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]


def test_a_release_waits_for_the_tests_and_for_its_images() -> None:
    (release,) = (read(path) for path in WORKFLOWS if path.name == "release.yml")
    jobs = release["jobs"]
    assert jobs["test"]["uses"] == "./.github/workflows/ci.yml"
    assert set(jobs["image"]["needs"]) == {"notes", "test"}
    assert jobs["publish"]["needs"] == "image"


# --- what a release says ---

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


# --- the audit ---


def test_each_advisory_that_the_audit_passes_over_is_answered() -> None:
    script = (ROOT / "builder/audit.sh").read_text(encoding="utf-8")
    page = (ROOT / "docs/security.md").read_text(encoding="utf-8")
    table = page.partition("<!-- advisories:begin -->")[2].partition("<!-- advisories:end -->")[0]
    (passed_over,) = re.findall(r'^answered="(.*)"$', script, re.MULTILINE)
    assert passed_over.split() == re.findall(r"^\| ((?:CVE|GHSA|PYSEC)-[\w-]+)", table, re.M)


def test_the_audit_asks_about_every_lock(tmp_path: Path) -> None:
    """With a pip-audit that only writes down what it is asked."""
    builder = tmp_path / "builder"
    builder.mkdir()
    for name in ("audit.sh", "progress.sh"):
        (builder / name).write_text((ROOT / "builder" / name).read_text())
    for lock in ("requirements.txt", "requirements-dev.txt"):
        (builder / lock).write_text("")
    python = tmp_path / ".cache/audit/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$@" >> asked\n')
    python.chmod(0o755)
    done = subprocess.run(["sh", "builder/audit.sh", "python3"], cwd=tmp_path, timeout=20)
    assert done.returncode == 0
    asked = (tmp_path / "asked").read_text().splitlines()[-1]
    assert "--strict" in asked
    assert "--requirement builder/requirements.txt" in asked
    assert "--requirement builder/requirements-dev.txt" in asked
    assert "python3" not in asked.split()
