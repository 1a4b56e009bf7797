"""The workflows: their rights, their pins, and the order of a release."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.dockerfile import dockerfile
from tests.paths import ROOT

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))

WRITES = {
    ("release.yml", "image"): {"packages", "id-token", "attestations"},
    ("release.yml", "publish"): {"contents"},
    ("wheel.yml", "wheel"): {"contents", "id-token", "attestations"},
}
"""Rights to write, by workflow and job; all other jobs have none."""


def by_name(path: Path) -> str:
    return path.name


def read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return document


def jobs(name: str) -> dict[str, Any]:
    """Return the jobs of a workflow by its name, such as "ci"."""
    found: dict[str, Any] = read(ROOT / f".github/workflows/{name}.yml")["jobs"]
    return found


def builds(job: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what each of a job's builds is asked for, in their order."""
    return [
        step["with"]
        for step in job.get("steps", ())
        if step.get("uses", "").startswith("docker/build-push-action@")
    ]


def all_builds() -> Iterator[dict[str, Any]]:
    for path in WORKFLOWS:
        for job in read(path)["jobs"].values():
            yield from builds(job)


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


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=by_name)
def test_shellcheck_has_nothing_to_say_of_a_script(workflow: Path) -> None:
    # As actionlint asks it, which CI runs over the workflows.
    for job in read(workflow)["jobs"].values():
        for step in job.get("steps", ()):
            done = subprocess.run(
                [Path(sys.executable).with_name("shellcheck"), "--shell", "bash", "-"],
                input=f"set -e\n{step.get('run', '')}",
                capture_output=True,
                text=True,
                timeout=30,
            )
            assert (done.returncode, done.stdout) == (0, "")


def test_a_build_asks_for_arguments_and_stages_that_the_dockerfile_has() -> None:
    arguments = {words.split("=")[0] for name, words in dockerfile() if name == "ARG"}
    stages = {words.split()[-1] for name, words in dockerfile() if name == "FROM"}
    for build in all_builds():
        given = build["build-args"].splitlines()
        assert {line.partition("=")[0] for line in given} <= arguments
        assert build.get("target") is None or build["target"] in stages


# --- the images ---


def test_each_push_builds_and_proves_both_images() -> None:
    kinds = [builds(job)[0]["build-args"].split()[0] for job in jobs("image").values()]
    assert kinds == ["ACCEL=cpu", "ACCEL=cuda"]
    for job in jobs("image").values():
        assert job["steps"][-1]["run"].startswith("make image")
        # The proof builds too: in the builder that has the layers, not in docker's own.
        assert job["steps"][-1]["env"] == {"BUILDX_BUILDER": "${{ steps.builder.outputs.name }}"}


def test_a_pull_request_writes_no_cache_and_reads_that_of_the_main_branch() -> None:
    for job in jobs("image").values():
        for step in job["steps"]:
            written = step.get("with", {}).get("cache-to", "")
            assert not written or "refs/heads/main" in step.get("if", written)
    assert all("cache-from" in build for job in jobs("image").values() for build in builds(job))


def test_the_cache_for_cuda_holds_what_was_compiled_without_the_toolkit() -> None:
    # A repository's caches have 10 GB together; the toolkit alone would take half of them.
    (kept,) = [build for build in builds(jobs("image")["cuda"]) if "cache-to" in build]
    assert kept["target"] == "wheel"
    assert kept["cache-to"].endswith("mode=min")
    # Nothing else may need the stage with the toolkit, or it is pulled for a cached wheel too.
    stages = [words for name, words in dockerfile() if name in ("FROM", "COPY")]
    of_wheel = stages[stages.index("scratch AS wheel") + 1 :][:2]
    from_compiled = [words for words in stages if words.startswith("--from=compiled")]
    assert from_compiled == of_wheel


def test_tests_on_a_gpu_are_off_unless_a_variable_names_the_runner() -> None:
    job = jobs("ci")["gpu"]
    assert "vars.GPU_RUNNER != ''" in job["if"]
    assert "github.event_name != 'pull_request'" in job["if"]
    assert "vars.GPU_RUNNER" in job["runs-on"]


def test_all_supported_pythons_are_tested() -> None:
    (ci,) = (read(path) for path in WORKFLOWS if path.name == "ci.yml")
    assert ci["jobs"]["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]


# --- a release ---


def test_a_release_waits_for_the_tests_and_for_its_images() -> None:
    release = jobs("release")
    assert release["test"]["uses"] == "./.github/workflows/ci.yml"
    assert set(release["image"]["needs"]) == {"notes", "test"}
    assert release["publish"]["needs"] == "image"


def test_a_release_has_both_images_with_their_parts_provenance_and_labels() -> None:
    image = jobs("release")["image"]
    assert image["strategy"]["matrix"]["accel"] == ["cpu", "cuda"]
    (pushed,) = [build for build in builds(image) if build.get("push")]
    assert pushed["sbom"] is True
    assert pushed["provenance"] == "mode=max"
    given = {line.partition("=")[0] for line in pushed["build-args"].splitlines()}
    assert given == {"ACCEL", "VERSION", "REVISION"}


def test_a_release_has_no_tag_that_moves() -> None:
    (pushed,) = [build for build in builds(jobs("release")["image"]) if build.get("push")]
    (tag,) = pushed["tags"].splitlines()
    assert tag.endswith(":${{ github.ref_name }}-${{ matrix.accel }}")


def test_an_image_is_pushed_only_if_runpod_would_find_its_compiled_wheel() -> None:
    steps = jobs("release")["image"]["steps"]
    checked = [at for at, step in enumerate(steps) if "wheel_line.sh" in step.get("run", "")]
    pushed = [at for at, step in enumerate(steps) if step.get("with", {}).get("push")]
    assert len(checked) == len(pushed) == 1
    assert checked < pushed
    # Without an address the script fails where the wheel is not listed.
    assert "sh builder/wheel_line.sh out/wheels\n" in steps[checked[0]]["run"]


def test_the_wheel_is_compiled_as_runpod_would_and_its_release_is_no_version() -> None:
    job = jobs("wheel")["wheel"]
    (build,) = builds(job)
    assert (build["target"], build["build-args"]) == ("wheel", "ACCEL=cuda")
    published = job["steps"][-1]["run"]
    assert 'gh release create "llama-$KEY"' in published
    assert "--prerelease --latest=false" in published
    assert 'tags: ["v*"]' in (ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8")
