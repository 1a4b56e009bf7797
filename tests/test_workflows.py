"""The workflows: their rights, their pins, and the order of a release."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.paths import ROOT

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))

WRITES = {
    ("release.yml", "image"): {"packages", "id-token", "attestations"},
    ("release.yml", "publish"): {"contents"},
}
"""Rights to write, by workflow and job; all other jobs have none."""


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
